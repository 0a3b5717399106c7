"""Processes that others than torchrun and accelerate have started, and whether they meet."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from focus.config.train import EvaluateConfig, TrainConfig
from focus.errors import InputError
from focus.runtime.launch import check_address, check_alone, start
from focus.runtime.machine import default_workers

from ..launching import free_port

STARTED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")

# Says how many processes there are, to whom each belongs, and which of them speaks.
PROGRAM = """
from focus.config.command_line import run
from focus.config.train import EvaluateConfig, TrainConfig
from focus.runtime.machine import is_main_process

def main(config):
    from focus.runtime.launch import closing_process_group, start
    main = is_main_process()
    with closing_process_group():
        accelerator = start(config)
        print(accelerator.num_processes, accelerator.process_index, main)

run(main, TrainConfig)
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*STARTED, *SLURM):
        monkeypatch.delenv(name, raising=False)
    # Which the check may set.
    monkeypatch.setenv("MASTER_ADDR", "")


def started(**said: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | said,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_two_processes_of_mpirun_train_together(alone: bool) -> None:
    """Also without MASTER_ADDR where all are on this machine."""
    port = str(free_port())
    where = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"} if alone else {"MASTER_ADDR": "127.0.0.1"}
    with ThreadPoolExecutor() as pool:
        ranks = [
            pool.submit(
                started,
                OMPI_COMM_WORLD_SIZE="2",
                OMPI_COMM_WORLD_RANK=str(rank),
                MASTER_PORT=port,
                OMP_NUM_THREADS="1",
                **where,
            )
            for rank in range(2)
        ]
    done = [rank.result() for rank in ranks]
    assert [each.returncode for each in done] == [0, 0], done
    assert [each.stdout for each in done] == ["2 0 True\n", "2 1 False\n"]


@pytest.mark.slow
def test_tasks_of_a_step_of_slurm_that_know_of_nobody_are_refused() -> None:
    done = started(SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2", SLURM_NTASKS="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "-c: error: This is one of 2 processes that srun or mpirun has started, each of which "
        "would do all of it by itself: start them by torchrun, or set RANK=0 and WORLD_SIZE=1 if "
        "each is to."
    )


@pytest.mark.parametrize(
    ("said", "processes"),
    [
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 1),  # a batch script
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "2"}, 1),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "1"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "2", "WORLD_SIZE": "1"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2"}, 2),
    ],
)
def test_who_is_alone_or_has_met_the_others_is_not_refused(
    said: dict[str, str], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    check_alone(processes)


@pytest.mark.parametrize("name", STARTED[:3])
def test_processes_of_mpi_that_have_not_met_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs, where Accelerate does not look at these."""
    monkeypatch.setenv(name, "4")
    with pytest.raises(InputError, match="one of 4 processes that srun or mpirun has started"):
        check_alone(1)


def test_processes_of_several_machines_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    with pytest.raises(InputError, match="MASTER_ADDR is not set"):
        check_address()
    monkeypatch.setenv("MASTER_ADDR", "first")
    check_address()
    assert os.environ["MASTER_ADDR"] == "first"


@pytest.mark.usefixtures("plain_cpu")
def test_the_program_accumulates_and_accelerate_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that was told the program's own number would have Accelerate divide by it again;
    and the others wait as long for the images as the documentation says, three hours."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = start(TrainConfig(gradient_accumulation_steps=4))
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.init_handler.timeout == timedelta(hours=3)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launcher_that_shares_networks_out_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(InputError, match=f"^The launcher was told {kind}, .* --use_{kind.lower()}"):
        start(TrainConfig())


@pytest.mark.parametrize(("name", "value"), [("USE_CPU", ""), ("USE_FSDP", "maybe")])
def test_a_variable_of_accelerates_that_is_neither_true_nor_false_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(InputError) as caught:
        start(TrainConfig())
    assert str(caught.value) == (
        f"ACCELERATE_{name} is {value!r}, neither true nor false: set it to one of them, or leave "
        "it unset."
    )


@pytest.mark.parametrize(
    "name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *STARTED[:3]]
)
@pytest.mark.parametrize("value", ["", "$SLURM_NTASKS"])
def test_processes_that_are_not_counted_by_numbers_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        start(TrainConfig())
    assert str(caught.value) == (
        f"{name} is {value!r}, no whole number: leave it to `accelerate launch` or torchrun, or "
        "unset it."
    )


def test_workers_are_not_counted_by_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is before Accelerate starts."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "one")
    with pytest.raises(InputError, match=r"^LOCAL_WORLD_SIZE is 'one', no whole number"):
        default_workers()


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_machine_without_processes_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    for counted in (default_workers, lambda: start(TrainConfig())):
        with pytest.raises(InputError, match=f"^LOCAL_WORLD_SIZE is {value}, where a machine has"):
            counted()


@pytest.mark.usefixtures("plain_cpu")
def test_a_precision_of_accelerates_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "")
    assert start(TrainConfig()).mixed_precision == "no"


@pytest.mark.usefixtures("plain_cpu")
def test_a_launcher_that_compiles_is_refused_by_training_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(InputError, match="told to compile the network with inductor"):
        start(TrainConfig())
    start(EvaluateConfig(run="runs/r"))
