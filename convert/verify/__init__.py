"""Proves that a GGUF file says what its checkpoint says."""
