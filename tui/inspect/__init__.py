"""Shows what `bq inspect` found: a summary, the long lists, or data."""
