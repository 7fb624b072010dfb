"""Measures a model in numbers: perplexity, divergence from a reference, and what its matrices are given to work on."""
