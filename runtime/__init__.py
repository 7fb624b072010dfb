"""Runs a Baichuan GGUF file through llama.cpp: load, prompt ids, context, generate, sample.

Nothing heavy is imported here; take what is needed from the modules, `bq.runtime.load.load` first of all.
"""
