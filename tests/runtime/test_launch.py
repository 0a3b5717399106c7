"""The start of Accelerate, work in all processes of a launch, and the end of their group."""

import os
import re
import signal
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from focus.data.manifest import Manifest
from focus.errors import ImageError, InputError
from focus.runtime.launch import (
    arithmetic,
    check_precision,
    choose_arithmetic,
    closing_process_group,
    start,
    usual_precision,
)
from focus.runtime.signals import Stopped
from focus.training.trainer import Trainer

from ..launching import free_port, run, told
from ..training.trainers import few_faces, trainer

PROGRAM = """
import json, sys
from focus.errors import InputError
from focus.config.command_line import run
from focus.config.train import TrainConfig

def main(config):
    from focus.runtime.launch import closing_process_group, run_on_all, run_on_main_first, start
    done = []
    def work():
        done.append(accelerator.process_index)
        return len(done)
    def fails(rank, error):
        if accelerator.process_index == rank:
            raise error("The cache is gone.")
    with closing_process_group():
        accelerator = start(config.mixed_precision, config.threads)
        print(accelerator.num_processes, run_on_main_first(accelerator, work), *done, flush=True)
        if config.name == "first":
            run_on_main_first(accelerator, lambda: fails(0, InputError))
        run_on_all(accelerator, lambda: fails(1, InputError))

run(main, TrainConfig)
"""


@pytest.mark.slow
def test_two_processes_work_together_and_the_first_says_what_one_lacks() -> None:
    """As torchrun starts them on CPUs: Accelerate alone would have each believe it is alone."""
    for words, said in (
        (("--name", "first"), "-c: error: The cache is gone.\n"),
        ((), "-c: error: Process 1: The cache is gone.\n"),
    ):
        port = free_port()
        with ThreadPoolExecutor() as pool:
            ranks = [
                pool.submit(run, "-c", PROGRAM, *words, **told(rank, 2, port, local=2))
                for rank in range(2)
            ]
        done = [rank.result() for rank in ranks]
        assert [process.returncode for process in done] == [2, 2], done
        assert [process.stdout for process in done] == ["2 1 0\n", "2 1 1\n"]
        assert done[0].stderr.endswith(said)
        assert "error" not in done[1].stderr


@pytest.mark.usefixtures("plain_cpu")
def test_the_others_wait_for_the_images_as_long_as_documented() -> None:
    assert start("no", None).init_handler.timeout == timedelta(hours=3)


@pytest.mark.usefixtures("plain_cpu")
def test_gradients_are_parts_of_what_the_processes_exchange() -> None:
    """A copy of each would take as much memory as the network once more."""
    assert start("no", None).ddp_handler.gradient_as_bucket_view


@pytest.mark.usefixtures("plain_cpu")
def test_what_the_launcher_was_told_is_not_overruled_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what is advised leads out."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InputError, match=r"was told bf16 .*, the program no: give the") as error:
        start("no", None)
    advised = re.findall(r"give the launcher --mixed-precision (\w+), too", str(error.value))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", *advised)
    assert start("no", None).mixed_precision == "no"


@pytest.mark.usefixtures("plain_cpu")
def test_without_a_flag_the_launcher_decides_on_the_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert start(None, None).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    for precision in (None, "bf16"):
        with pytest.raises(InputError, match=r"was told fp8 .* give it no, bf16 or fp16") as error:
            start(precision, None)
        assert "the program" not in str(error.value)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()
    assert start(None, None).mixed_precision == "bf16"
    AcceleratorState._reset_state()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "configured", "told"),
    [
        (["-m"], "", None),
        (["--mixed_precision", "no"], "", "no"),
        (["--config_file", "own.yaml"], "num_processes: 1", None),
        ([], "mixed_precision: 'no'", "no"),
    ],
)
def test_a_no_that_nobody_has_said_leaves_the_choice_to_the_device(
    words: list[str], configured: str, told: str | None, tmp_path: Path
) -> None:
    """accelerate launch hands on "no" in either case, and would make a GPU slow by default."""
    program = tmp_path / "program.py"
    program.write_text("from focus.runtime.launch import launcher_precision as told\nprint(told())")
    accelerate_config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "'NO'",
        "use_cpu": "true",
    }
    lines = [*(f"{name}: {value}" for name, value in accelerate_config.items()), configured]
    if configured:
        (folder := tmp_path / "accelerate").mkdir()
        is_named = "--config_file" in words
        path = tmp_path / "own.yaml" if is_named else folder / "default_config.yaml"
        path.write_text("\n".join(lines))
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", *words]
    target = "program" if "-m" in words else program
    environment = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = run(*launch, target, "--epochs", "3", cwd=tmp_path, **environment)
    assert done.stdout.split()[-1:] == [str(told)], done.stderr


def test_a_gpu_has_fast_products_unless_a_flag_says_otherwise() -> None:
    """No GPU runs this: what torch is told, and what is said of it."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = backends[0].allow_tf32, backends[1].allow_tf32, backends[1].benchmark
    gpu: Any = SimpleNamespace(mixed_precision="bf16", device=torch.device("cuda"))
    try:
        for fast in (True, False):
            choose_arithmetic(gpu.device, tf32=fast, cudnn_benchmark=fast)
            assert [backends[0].allow_tf32, backends[1].allow_tf32] == [fast, fast]
            state = "on" if fast else "off"
            said = f"mixed precision bf16, TF32 {state}, cudnn.benchmark {state}"
            assert arithmetic(gpu) == said
        choose_arithmetic(torch.device("cpu"), tf32=True, cudnn_benchmark=True)
        assert torch.get_float32_matmul_precision() == "highest", "of a CPU, whose bits repeat"
    finally:
        backends[0].allow_tf32, backends[1].allow_tf32, backends[1].benchmark = before


@pytest.mark.parametrize("name", ["cuda:99", "cudo"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"^--device {name}: there is none on this machine"):
        start("no", None, device=name)


def test_several_processes_share_no_numbered_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"^--device meta:0 is for one process: give meta to sev"):
        start("no", None, device="meta:0")


@pytest.mark.usefixtures("plain_cpu")
def test_each_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focus.runtime.launch.usable_cores", lambda: 8)
    for processes, threads, expected in (
        ("1", None, 8),
        ("3", None, 2),
        ("9", None, 1),
        ("3", 5, 5),
    ):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        start("no", threads)
        assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("plain_cpu")
def test_what_the_device_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--mixed-precision fp16 needs a GPU"):
        check_precision("fp16", torch.device("cpu"))
    for backend in ("trito", "triton"):
        monkeypatch.setenv("FOCUS_BACKEND", backend)
        with pytest.raises(InputError, match="set FOCUS_BACKEND=auto, or leave it unset"):
            start("no", None)
    # What torch says of the device is made up: a T4 is of 7.5, and emulates bf16.
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for major in (8, 7):
        properties = SimpleNamespace(major=major, name="Tesla T4")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, p=properties: p)
        check_precision("fp16", torch.device("cuda"))
        assert usual_precision(torch.device("cuda")) == ("bf16" if major == 8 else "fp16")
        assert usual_precision(torch.device("mps")) == "no"
        if major == 8:
            check_precision("bf16", torch.device("cuda"))
    with pytest.raises(InputError, match=r"^Tesla T4 has no bf16: give --mixed-precision fp16, or"):
        check_precision("bf16", torch.device("cuda"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


@pytest.mark.slow
def test_a_resumed_run_has_the_threads_and_the_bits_of_before(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sums are of as many parts; other threads are taken where they are given, and said."""
    arguments: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}

    def weights(run: Trainer) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in run.detector.parameters()])

    torch.set_num_threads(2)
    whole = trainer(faces, tmp_path / "whole", **arguments)
    whole.fit()
    for name, more in (("same", {}), ("other", {"threads": 1})):
        torch.set_num_threads(2)
        run = trainer(faces, tmp_path / name, **arguments)
        run.detector.register_forward_hook(
            lambda *_, r=run: os.kill(os.getpid(), signal.SIGTERM) if r.state.step == 2 else None
        )
        with pytest.raises(Stopped, match="after step 3, saved"):
            run.fit()
        torch.set_num_threads(1)  # as a program that starts again elsewhere
        capsys.readouterr()
        again = trainer(faces, tmp_path / name, resume=True, **arguments, **more)
        assert torch.get_num_threads() == (1 if more else 2)
        again.fit()
        assert weights(again).equal(weights(whole)) == (not more)
        said = "the run had 2 threads each process, not 1: on a CPU its results are no longer"
        assert (said in capsys.readouterr().out) == bool(more)


class Network:
    """As one that is trained in the group, in a cycle that only the collector ends."""

    def __init__(self) -> None:
        self.itself = self
        ALIVE.append(weakref.ref(self))


ALIVE: list["weakref.ref[Network]"] = []


def fail(error: Exception) -> None:
    """As a step whose error has a cause, and leads to another while the loader is closed."""
    network = Network()
    try:
        inner = Network()
        raise KeyError(id(inner))
    except KeyError as cause:
        raise error from cause
    finally:
        del network


@pytest.mark.parametrize(
    ("error", "destroyed"),
    [
        (InputError("The data are empty."), [[False, False]]),
        # The others are still at work in the group.
        (ImageError("The image a.png is gone."), []),
    ],
)
def test_the_group_is_destroyed_after_all_that_an_error_holds(
    error: InputError, destroyed: list[list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DistributedDataParallel that outlives it would wait for ever."""
    ALIVE.clear()
    alive: list[list[bool]] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed,
        "destroy_process_group",
        lambda: alive.append([network() is not None for network in ALIVE]),
    )
    work: Callable[[Exception], None] = closing_process_group()(fail)
    with pytest.raises(type(error)):
        work(error)
    assert alive == destroyed
