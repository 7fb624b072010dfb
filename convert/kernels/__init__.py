"""Quantization kernels for many blocks at once, compiled by numba where it is installed (the extra `fast`)."""
