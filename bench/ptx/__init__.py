"""Execute the PTX that Triton compiles for NVIDIA's GPUs, on the CPU, without a GPU.

:mod:`.translate` turns PTX into Python, by NVIDIA's manual of PTX and nothing else;
:mod:`.threads`, :mod:`.memory` and :mod:`.machine` are what the Python runs on; :mod:`.driver`
stands in for a GPU in Triton; :mod:`bench.mutants` has broken kernels. ``python -m bench.ptx`` runs
it.
"""
