"""Mends files that older converters made wrong."""
