"""Finds the types that hurt a model least within a size."""
