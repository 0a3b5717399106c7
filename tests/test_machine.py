"""Where files are kept between runs, and how many cores there are."""

import os
from pathlib import Path

import pytest

from focus.data.machine import cache_dir, usable_cores


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
