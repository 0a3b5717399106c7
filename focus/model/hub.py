"""A saved detector as a folder: written whole, and fetched from the Hugging Face Hub."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from focus.errors import InputError, did_you_mean
from focus.model.backbones import first_line
from focus.model.card import CARD
from focus.model.config import CONFIG_FILE
from focus.model.operating_points import THRESHOLDS
from focus.runtime.files import REFUSED, flush

WEIGHTS_FILE = "model.safetensors"
_ALWAYS, _PERHAPS = (CONFIG_FILE, WEIGHTS_FILE), (THRESHOLDS, CARD)

_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token", "endpoint")

_HUB_ID = re.compile(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", re.ASCII)


@contextmanager
def replace_folder(folder: Path, *, keep_others: bool) -> Iterator[Path]:
    """An empty folder beside ``folder``, which takes its place when all is written to it.

    An error leaves what was there, and nothing beside it.

    keep_others: move what is no part of a detector to the new folder.

    Raises:
        InputError: ``folder`` is the current one, or it holds more than a detector, which replacing
            it would delete, without ``keep_others``.
    """
    folder = folder.resolve()  # of a link, replace what it leads to
    if folder.exists() and folder.samefile("."):
        raise InputError(
            f"{folder} is the current folder, which saving would replace: give a folder of its own."
        )
    if (others := _others(folder)) and not keep_others:
        raise InputError(
            f"{folder} holds more than a detector ({others[0]}): give a folder of its own."
        )
    old = folder.with_name(f".{folder.name}.old")
    if keep_others and old.exists():  # a save was killed before it had moved everything
        if folder.exists():
            _move_others(old, folder)
        else:
            old.replace(folder)
    if folder.exists() and old.exists():
        _remove(old)
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (*aside.iterdir(), aside):
            flush(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk would stay full
        raise
    if folder.exists():
        folder.replace(old)
        aside.replace(folder)
        _move_others(old, folder)
        _remove(old)
    else:
        aside.replace(folder)


def _remove(folder: Path) -> None:
    """Raises OSError with the folder's path; that of rmtree has the name of a file in it alone."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def _others(folder: Path) -> list[str]:
    """Names in a folder, if there is one, that are no part of a detector."""
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # A README.md without a detector is that of something else.
    own = {*_ALWAYS, *_PERHAPS} if CONFIG_FILE in present else {*_ALWAYS, THRESHOLDS}
    return sorted(present - own)


def _move_others(old: Path, folder: Path) -> None:
    for name in _others(old):
        (old / name).replace(folder / name)


def local_folder(name: str | Path, **options: Any) -> Path:
    """The folder of that name; else that of the cache, to which USER/NAME is fetched from the Hub.

    Only a text USER/NAME may be on the Hub; of a model there its four files are fetched. options:
    some of ``_OPTIONS``, as of :func:`huggingface_hub.hf_hub_download`.

    Raises:
        InputError: there is no such folder, and the Hub does not give the model; the cache cannot
            be written; an option that there is not, or a revision of a folder.
    """
    for option in options:
        if option not in _OPTIONS:
            raise InputError(
                f"A detector is not loaded with {option!r}{did_you_mean(option, _OPTIONS)}: give "
                f"some of {', '.join(_OPTIONS)}."
            )
    folder = Path(name)
    if folder.exists() or not (isinstance(name, str) and _HUB_ID.fullmatch(name)):
        if folder.exists() and options.get("revision") is not None:
            raise InputError(
                f"The revision {options['revision']!r} is that of a model on the Hub, and {folder} "
                "is a folder: drop it, or give a USER/NAME that is no folder here."
            )
        return folder
    try:
        folder = Path(hf_hub_download(name, CONFIG_FILE, **options)).parent
        # All of one commit, by which the cache calls it, though another may be pushed meanwhile.
        options = options | {"revision": folder.name}
        hf_hub_download(name, WEIGHTS_FILE, **options)
        for file in _PERHAPS:
            _fetch_if_there(name, file, options)
    except Exception as error:  # the Hub's own errors, those of the connection and of the disk
        # Of errors of the system, those of files name one, those of a connection do not.
        if isinstance(error, OSError) and (error.filename or error.errno in REFUSED):
            raise InputError(
                f"The model {name} cannot be kept in the Hub's cache ({first_line(error)}): free "
                "the place, or choose another by HF_HOME."
            ) from error
        raise InputError(
            f"There is no folder {name}, and the Hub gave no model of that name "
            f"({first_line(error)}): check the name and the connection."
        ) from error
    return folder


def _fetch_if_there(name: str, file: str, options: dict[str, Any]) -> None:
    try:
        hf_hub_download(name, file, **options)
    except LocalEntryNotFoundError:
        # Offline: the cache may know that the model has no such file.
        where = {key: options[key] for key in ("cache_dir", "revision") if key in options}
        known = try_to_load_from_cache(name, file, **where)
        if known is None:
            raise
    except EntryNotFoundError:
        pass
