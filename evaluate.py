"""Score images with a trained detector: AUC by generator, entropy and place of its focus.

Without a launcher it uses the CPU, or the first GPU if there is one:
    python evaluate.py --run runs/demo-blend-seed0
    python evaluate.py --run runs/NAME --test-data StyleGAN3=fakes/ --test-real FFHQ=reals/

Several runs side by side, from what they left, in a page:
    python evaluate.py --compare runs/demo-blend-seed0 runs/demo-ce-seed0

The scores of any other detector, from a table:
    python evaluate.py --scores theirs.csv --training-generators ProGAN

On one GPU, in bfloat16:
    accelerate launch --num-processes 1 evaluate.py --run runs/NAME --mixed-precision bf16

On several:
    accelerate launch --multi-gpu --num-processes 4 evaluate.py --run runs/NAME

On CPUs, with -- before the script, as torchrun takes --run for a flag of its own:
    torchrun --nproc_per_node 2 -- evaluate.py --run runs/NAME
"""

import sys
from pathlib import Path

# The folder kernels/ beside this file would hide Hugging Face's package of that name.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

from focus.config.command_line import run  # noqa: E402
from focus.config.use import EvaluateConfig  # noqa: E402


def main(config: EvaluateConfig) -> object:
    """Score, summarise and write; return the table, for the program to print."""
    from focus.use.evaluate import evaluate  # torch and all: --help does without

    return evaluate(config)


if __name__ == "__main__":
    run(main, EvaluateConfig, description=__doc__ or "")
