"""Where files are kept between runs, how many cores there are, and where no thread starts."""

import os
import pwd
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Thread

import pytest

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.errors import InputError
from focus.runtime import machine
from focus.runtime.machine import cache_dir, default_workers, is_main_process, usable_cores


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/c/home")
    monkeypatch.setenv("FOCUS_CACHE", "/c/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c/xdg")
    assert cache_dir() == Path("/c/mine")
    monkeypatch.setenv("FOCUS_CACHE", "~/mine")
    assert cache_dir() == Path("/c/home/mine")
    monkeypatch.setenv("FOCUS_CACHE", "")
    assert cache_dir() == Path("/c/xdg/focus-faces")
    monkeypatch.delenv("FOCUS_CACHE")
    assert cache_dir() == Path("/c/xdg/focus-faces")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/c/home/.cache/focus-faces")


def test_without_a_home_folder_one_sentence_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(user: object) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)  # as in a container, of a number without a name
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "FOCUS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for own, place in ((None, "~/.cache/focus-faces"), ("~/mine", "~/mine"), ("~who/c", "~who/c")):
        if own:
            monkeypatch.setenv("FOCUS_CACHE", own)
        with pytest.raises(InputError) as caught:
            cache_dir()
        assert str(caught.value) == (
            f"No home folder is known for {place}, where files are kept between runs: set HOME, or "
            "FOCUS_CACHE to another folder."
        )
    monkeypatch.setenv("FOCUS_CACHE", "/c/mine")
    assert cache_dir() == Path("/c/mine")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(1, None, 1), (2, None, 2), (64, None, 8), (16, "4", 4), (64, "2", 8), (2, "4", 1)],
)
def test_processes_of_a_machine_share_its_cores_for_loading(
    cores: int, processes: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert default_workers() == workers


@pytest.mark.parametrize(
    ("rank", "local", "main"),
    [
        (None, None, True),
        ("0", "0", True),
        ("8", "0", False),
        (None, "0", True),
        (None, "1", False),
    ],
)
def test_the_main_process_is_the_first_of_all_machines(
    rank: str | None, local: str | None, main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RANK": rank, "LOCAL_RANK": local}
    for name in machine.RANKS:
        monkeypatch.delenv(name, raising=False)
        if value := given.get(name):
            monkeypatch.setenv(name, value)
    assert is_main_process() == main


@pytest.mark.parametrize("name", ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"])
def test_mpi_says_which_process_is_the_main_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in machine.RANKS:
        monkeypatch.delenv(each, raising=False)
    for rank, main in (("0", True), ("1", False)):
        monkeypatch.setenv(name, rank)
        assert is_main_process() == main
    # The first of a second machine; and each of what torchrun starts on several, itself so started.
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not is_main_process()
    monkeypatch.setenv("RANK", "0")
    assert is_main_process()


@pytest.mark.parametrize("begin", [lambda: ThreadPool(1), lambda: Thread().start()])
def test_a_system_that_starts_no_more_threads_is_one_line(
    begin: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refused)
    with pytest.raises(SystemExit) as caught:
        run(lambda _: begin(), TrainConfig, argv=[], prog="p")
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "p: error: The system starts no more threads: end other programs, or raise the limit "
        "(ulimit -u, or the container's).\n"
    )
