"""Measure the head and the training step on the CPU, for the tables of docs/benchmarks.md.

    python -m bench [--short] [--output FOLDER] [--rounds N]

Each is ``python -m bench.head`` and ``python -m bench.step``, a process of its own that takes these
flags.
"""

import subprocess
import sys


def main() -> int:
    """Run both, the second also where the first one failed; return the exit code."""
    commands = [[sys.executable, "-m", f"bench.{name}", *sys.argv[1:]] for name in ("head", "step")]
    codes = [subprocess.run(command).returncode for command in commands]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
