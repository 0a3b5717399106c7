"""Measurements of the kernels; each is a program: ``python -m bench.codegen``."""

import sys
from importlib.util import find_spec

# ``python -m`` finds the checkout's focus first, whose kernels only an editable install names.
if find_spec("focus.kernels") is None:
    sys.exit("error: This checkout is not the installed one: call pip install -e . in it.")
