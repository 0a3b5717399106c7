"""Where files are kept between runs, how many cores there are."""

import os
from pathlib import Path

import pytest

from focus.runtime import machine
from focus.runtime.machine import cache_dir, default_workers, usable_cores


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/c/home")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c/xdg")
    for variable, folder in (
        ("/c/mine", "/c/mine"),
        ("~/mine", "/c/home/mine"),
        ("", "/c/xdg/focus-faces"),
    ):
        monkeypatch.setenv("FOCUS_CACHE", variable)
        assert cache_dir() == Path(folder)
    monkeypatch.delenv("FOCUS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/c/home/.cache/focus-faces")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_processes_of_a_machine_share_its_cores_for_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, processes, workers in (
        *((1, "1", 1), (2, "1", 2), (64, "1", 8)),
        *((16, "4", 4), (64, "2", 8), (2, "4", 1)),
    ):
        monkeypatch.setattr(machine, "usable_cores", lambda n=cores: n)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert default_workers() == workers
