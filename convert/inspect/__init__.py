"""Reads what a file or a checkpoint says of itself, for people who want to know what they have."""
