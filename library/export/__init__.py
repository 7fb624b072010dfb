"""What other programs need to run a model file as its release means it."""
