"""Run by ``test_traffic`` in a process of its own: count the bytes that its lines are about.

    python tests/kernels/count_traffic.py FOLDER

reads the lines, each a usage, its case and the scale of the tiles, from ``lines.pickle`` and writes
to ``rows.pickle`` the row of each, or what went wrong as a text.
"""

import os
import pickle
import sys
import traceback
from pathlib import Path

import torch

# Of this directory.
from interpreter import interpreter

from bench import traffic


def counted(name: str, case: traffic.Case, tile_scale: int) -> traffic.Row | str:
    try:
        with interpreter(tile_scale=tile_scale):
            return traffic.count(name, case)
    except Exception:  # whatever it is fails the tests of this line, and the others have theirs
        return traceback.format_exc()


def main(folder: Path) -> None:
    # For what the tests that run beside this leave of the cores.
    os.nice(10)
    torch.set_num_threads(1)
    lines = pickle.loads((folder / "lines.pickle").read_bytes())
    found = {line: counted(*line) for line in lines}
    (folder / "rows.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
