"""Measure training and the head on a GPU; ``python -m bench.gpu --help`` says how."""
