"""Train a detector of synthetic faces and test it on generators it never saw.

On the CPU, with the embedded demo faces, or with your own:
    accelerate launch train.py
    accelerate launch train.py --data faces.csv --data-root images/ --human-maps human_maps/

On one GPU, in bfloat16 if it has that:
    accelerate launch --num-processes 1 train.py --data DIR

On several:
    accelerate launch --multi-gpu --num-processes 4 train.py --data DIR
"""

import sys
from pathlib import Path

# The folder kernels/ beside this file would hide Hugging Face's package of that name.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from focus.config.command_line import run  # noqa: E402
from focus.config.train import TrainConfig  # noqa: E402


def main(config: TrainConfig) -> object:
    """Train and test; return the table, for the program to print."""
    from focus.training.run import train  # torch and all: --help does without

    return train(config)


if __name__ == "__main__":
    run(main, TrainConfig, description=__doc__ or "")
