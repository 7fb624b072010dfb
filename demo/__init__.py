"""The small bundled checkpoint, how it was trained, and what it should answer."""
