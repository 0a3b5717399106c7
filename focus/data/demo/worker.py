"""Render a share of the demo set into a folder: ``python -m focus.data.demo.worker``.

Reads one JSON object from standard input: folder, splits, start, step. Writes a JSON line to
standard output for each image, [position, artefacts], or a string that says what went wrong.
"""

import json
import signal
import sys
from pathlib import Path

from focus.data.demo.storage import render_share


def main() -> None:
    """The worker process."""
    # Ctrl-C goes to the whole process group: the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.load(sys.stdin)
    try:
        for record in render_share(Path(job["folder"]), job["splits"], job["start"], job["step"]):
            print(json.dumps(record), flush=True)
    except OSError as error:
        print(json.dumps(str(error)), flush=True)


if __name__ == "__main__":
    main()
