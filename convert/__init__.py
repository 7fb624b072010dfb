"""Turns a Baichuan checkpoint as released into a GGUF file, in one pass and without torch."""
