"""Run all measurements of CPU time, or one of them.

    python -m bench [head|step|all] [--short] [--output FOLDER]

``head`` compares the head with its rivals, ``step`` is a whole training step. Each runs in a
process of its own, as ``python -m bench.NAME`` does, which takes more options. ``--short`` takes
fewer cases and rounds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from bench.harness import run_program

PROGRAMS = ("head", "step")
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the programs, also where an earlier one failed; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",  # Python 3.14 says it so, those before "__main__.py"
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("program", nargs="?", choices=(*PROGRAMS, "all"), default="all")
    parser.add_argument("--short", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the CSVs and JSONs")
    given = parser.parse_args()
    options = ["--short"] if given.short else []
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        options += ["--output", str(given.output.absolute())]
    failed = []
    for name in PROGRAMS if given.program == "all" else [given.program]:
        print(f"bench.{name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"bench.{name}", *options], cwd=ROOT)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"error: failed: {', '.join(failed)}; see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
