"""The example configurations are what their programs read."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from focus.config.command_line import load_config
from focus.config.train import TrainConfig, resolve

CONFIGS = Path(__file__).parents[2] / "configs"
LAUNCHERS = {"one-gpu.yaml": ("NO", 1), "four-gpus.yaml": ("MULTI_GPU", 4)}
# tests/test_reproduce.py looks into these.
CYBORG = {f"cyborg-{name}.yaml" for name in ("densenet121", "inception_v3", "resnet50", "xception")}


def test_each_is_tested() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == {*LAUNCHERS, *CYBORG, "unattended.yaml"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_accelerate_reads_it(name: str) -> None:
    found = load_config_from_file(str(CONFIGS / name))
    assert (found.distributed_type, found.num_processes) == LAUNCHERS[name]
    assert (found.mixed_precision, found.use_cpu) == ("bf16", False)


def test_train_reads_it() -> None:
    config = resolve(load_config(TrainConfig, CONFIGS / "unattended.yaml"))
    assert (config.checkpoint_steps, config.ema_decay, config.patience) == (500, 0.999, 10)
