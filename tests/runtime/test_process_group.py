"""The group of a launch's processes is ended after all that an error holds of it."""

import weakref

import pytest
import torch

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.errors import ImageError, InputError
from focus.runtime.launch import closing_process_group


class Held:
    """As a network that is trained in the group, in a cycle that only the collector ends."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """For each end of the group, which of what was made in it are still there."""
    alive.clear()
    found: list[list[bool]] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        torch.distributed,
        "destroy_process_group",
        lambda: found.append([each() is not None for each in alive]),
    )
    return found


alive: list["weakref.ref[Held]"] = []


def hold() -> Held:
    held = Held()
    alive.append(weakref.ref(held))
    return held


def fail(error: Exception) -> None:
    held = hold()
    raise error from cause(held)


def cause(_: Held) -> Exception:
    held = hold()
    try:
        raise KeyError(id(held))
    except KeyError as error:
        return error


def fails_twice(error: Exception) -> None:
    """As a step whose error leads to another while the loader is closed."""
    held = hold()
    try:
        fail(ValueError(id(held)))
    finally:
        fail(error)


@pytest.mark.parametrize("debug", [False, True])
def test_what_an_error_of_another_process_holds_is_gone_before_the_group(
    debug: bool, ended: list[list[bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:3"
    with pytest.raises(SystemExit) as caught:
        run(
            lambda _: fails_twice(RuntimeError(gone)),
            TrainConfig,
            argv=["--debug"] * debug,
            prog="p",
        )
    assert caught.value.code == 2
    assert ended == [[False] * 5]
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("p: error: Another process of the launch has ended")
    assert ("in fails_twice" in said) == debug


def test_what_an_error_of_all_holds_is_gone_before_the_group(ended: list[list[bool]]) -> None:
    with pytest.raises(InputError, match="The data are empty"):
        closing_process_group()(fails_twice)(InputError("The data are empty."))
    assert ended == [[False] * 5]


def test_an_error_of_one_process_alone_leaves_the_group(ended: list[list[bool]]) -> None:
    """The others are still at work in it."""
    with pytest.raises(ImageError):
        closing_process_group()(fails_twice)(ImageError("The image a.png is gone."))
    assert ended == []
