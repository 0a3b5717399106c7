"""Measurements of the kernels; each is a program: ``python -m bench.codegen``."""
