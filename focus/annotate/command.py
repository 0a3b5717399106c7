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

from focus.annotate.answers import AnswerFolder
from focus.annotate.maps import write_maps
from focus.annotate.order import Keys, practice
from focus.config.annotate import AnnotateConfig
from focus.data.bad_files import check_images
from focus.data.known_images import digest_of
from focus.data.manifest import Manifest, Sample
from focus.data.readers import read_given, refuse_inside
from focus.data.readers.human_maps import MAP_FOLDERS
from focus.errors import InputError
from focus.runtime.files import check_writable, sole_writer
from focus.runtime.machine import listening_socket
from focus.runtime.signals import StopSignals


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
    given, _ = read_given(config, allow_unlabelled=True)
    bare = (replace(face, human_map=None, mask_path=None) for face in given)
    return check_images(Manifest(bare, given.source), max_bad=1.0)[0]


def _serve(config: AnnotateConfig, folder: AnswerFolder) -> None:
    from focus.annotate.desk import Desk
    from focus.annotate.server import LOCAL, Server

    is_local = config.host in LOCAL
    token = "" if is_local else secrets.token_urlsafe(16)
    with listening_socket(config.host, config.port) as listening:
        margins = _margins(config, folder.faces) if config.model_dir else None
        desk = Desk(folder, config.repeat_every, config.seed, margins)
        name = socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
        port = listening.getsockname()[1]
        address = f"http://{f'[{name}]' if ':' in name else name}:{port}/{token and f'{token}/'}"
        count = len(folder.practice)
        print(f"{len(folder.faces) - count} faces to annotate, {count} to practise before")
        print(f"open {address} in a browser; Ctrl-C ends, and writes the maps", flush=True)
        if config.browser and is_local:
            threading.Thread(target=_open, args=[address], daemon=True).start()
        with StopSignals("closing the page, then writing the maps") as signals:
            Server(desk, token, config.annotator, signals).run(sockets=[listening])


def _open(address: str) -> None:
    """Open the page in a browser, but in none that runs in the terminal."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        in_terminal = type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ
        if not in_terminal and browser.open(address):
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
