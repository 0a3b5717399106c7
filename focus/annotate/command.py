"""The command ``annotate``: serve the page, then write the maps of what was answered."""

import importlib.util
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from focus.annotate.answers import PAGE_LINK, AnswerFolder
from focus.annotate.desk import Desk, Keys, practice
from focus.annotate.maps import write_maps
from focus.config.data import AnnotateConfig
from focus.data.bad_files import check_images
from focus.data.known_images import digest_of
from focus.data.manifest import Manifest, Sample
from focus.data.readers import read_given, refuse_inside
from focus.data.readers.files import MAP_FOLDERS
from focus.errors import InputError
from focus.findings import print_findings
from focus.runtime.files import check_writable, sole_writer
from focus.runtime.signals import StopSignals

LOCAL = ("127.0.0.1", "localhost", "::1")
"""The names of this machine for itself: a browser here is opened at no other."""


def annotate(config: AnnotateConfig) -> None:
    """Let people answer and mark the faces in a browser until a signal; then write the maps.

    Raises InputError for data without faces, an output of other data or of another process, and an
    address that cannot be had.
    """
    output = Path(config.output)
    check_writable(output)
    if not {*output.absolute().parts} & {*MAP_FOLDERS}:  # whose pictures are no images
        refuse_inside(output, config.data)
    if not config.maps and importlib.util.find_spec("uvicorn") is None:
        raise InputError(
            "The page needs uvicorn: install it by pip install 'focus-faces[annotate]'."
        )
    data = checked_data(config)
    faces = [face for _, face in sorted({digest_of(face): face for face in data}.items())]
    output.mkdir(parents=True, exist_ok=True)
    with sole_writer(output, even_without_locks=True):
        folder = AnswerFolder(output, faces, practice(faces, config.practice, config.seed))
        if not config.maps:
            _serve(config, folder)
        folder.read_again()
        print(*write_maps(folder, data, config), sep="\n")


def checked_data(config: AnnotateConfig) -> Manifest:
    """Return the images that can be decoded, with their digests and without maps."""
    listing = read_given(config, allow_unlabelled=True)
    print_findings(listing.findings)
    bare = (replace(face, human_map=None, mask_path=None) for face in listing.data)
    return check_images(Manifest(bare, listing.data.source), max_bad=1.0).manifest


def _serve(config: AnnotateConfig, folder: AnswerFolder) -> None:
    from focus.annotate.server import Server

    token = secrets.token_urlsafe(16)
    with _listening_socket(config.host, config.port) as listening:
        margins = _margins(config, folder.faces) if config.model_dir else None
        desk = Desk(folder, config.repeat_every, config.seed, margins)
        name = socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
        port = listening.getsockname()[1]
        address = f"http://{f'[{name}]' if ':' in name else name}:{port}/{token}/"
        count = len(folder.practice)
        print(f"{len(folder.faces) - count} faces to annotate, {count} to practise before")
        print(f"open {address} in a browser; Ctrl-C ends, and writes the maps", flush=True)
        link = folder.folder / PAGE_LINK
        try:
            if config.browser and config.host in LOCAL:
                _write_link(link, address)
                threading.Thread(target=_open, args=[link], daemon=True).start()
            with StopSignals("closing the page, then writing the maps") as signals:
                Server(desk, token, config.annotator, signals).run(sockets=[listening])
        finally:
            link.unlink(missing_ok=True)


def _listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises InputError for a port in use, or no such address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise InputError(
            f"Nothing can be served at {host}, port {port} ({reason}): give another --port or "
            "--host, or end the program that has it."
        ) from error


def _write_link(path: Path, address: str) -> None:
    """Write a page that leads to the address, and that this account alone can read.

    The browser is given its path: other accounts see the words that a program is started with, and
    would have the token.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">\n')


def _open(link: Path) -> None:
    """Open the page in a browser, but in none that runs in the terminal."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        in_terminal = type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ
        if not in_terminal and browser.open(link.absolute().as_uri()):
            return
    print("no browser could be opened: open the address yourself", flush=True)


def _margins(config: AnnotateConfig, faces: Sequence[Sample]) -> Keys:
    """Return [N], how far each score is on the right side of the threshold.

    Of an unlabelled face it is the distance to the threshold.
    """
    from focus.evaluation.inference import score_images
    from focus.model.detector import Detector

    detector = Detector.from_pretrained(str(config.model_dir))
    scores = score_images(detector, Manifest(faces), batch_size=16)
    above = scores.score - detector.set_threshold().value
    return np.where(scores.label < 0, np.abs(above), np.where(scores.label == 1, above, -above))
