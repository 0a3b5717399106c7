"""A saved detector: its model card, and its way through a server that answers as the Hub does."""

import errno
import html
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, RepoUrl, close_session, constants

import focus.model.hub
from focus.config.train import TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics import Calibration
from focus.model.card import CARD, model_card, trained_how, trained_on, write_card
from focus.model.detector import Detector
from focus.model.hub import WEIGHTS_FILE
from focus.model.operating_points import POINTS, OperatingPoints

from ..detectors import assert_one_sentence
from ..launching import outcome

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    detector = Detector(image_size=32, training_generators=("kA",))
    thresholds = dict.fromkeys(POINTS, 0.25) | {"bpcer1": None}
    detector.points = OperatingPoints(thresholds, Calibration(1, 0, 1), 90, 80)
    return detector


class HubServer(BaseHTTPRequestHandler):
    """Answers for USER/NAME from a folder, as the Hub does: by commit, with an ETag.

    If there is a folder ``later`` in it, that is pushed as soon as a file has been fetched.
    """

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        repository, _, name = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = name.partition("/")
        later = self.folder / "later"
        commit = revision
        if revision == "main":
            commit = LATER if (later / "pushed").exists() else COMMIT
        path = (later if commit == LATER else self.folder) / name
        known = repository == "user/name"
        if not (known and path.is_file()):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{path.name}-{len(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            breaks_off = (self.folder / "breaks_off").exists() and path.name == WEIGHTS_FILE
            self.wfile.write(content[: len(content) // 2] if breaks_off else content)
            if later.exists():
                (later / "pushed").touch()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that is served, and the options that lead there."""
    # The caller's environment: offline is read when the Hub's package is imported, a proxy when it
    # opens its session.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()
    folder = tmp_path / "served"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(HubServer, folder))
    thread = Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    yield folder, {"endpoint": endpoint, "cache_dir": tmp_path / "cache"}
    server.shutdown()
    server.server_close()
    thread.join()
    close_session()


@pytest.mark.parametrize("with_points", [True, False])
def test_a_model_comes_from_the_hub_and_then_from_the_cache(
    with_points: bool, detector: Detector, hub: tuple[Path, dict[str, Any]]
) -> None:
    folder, options = hub
    points, detector.points = detector.points, detector.points if with_points else None
    detector.save_pretrained(folder)
    detector.points = points
    (folder / "custom_code.py").write_text("raise SystemExit")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for offline in (False, True):
        found = Detector.from_pretrained("user/name", local_files_only=offline, **options)
        assert found.predict(pictures).score.equal(detector.predict(pictures).score)
        assert (found.points is not None) == with_points
        assert found.config == detector.config
    assert not list(options["cache_dir"].rglob("custom_code.py")), "only what is read is fetched"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_that_is_pushed_meanwhile_is_not_mixed_with_the_one_before(
    revision: str | None, detector: Detector, hub: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, options = hub
    detector.save_pretrained(folder)
    Detector(image_size=32).save_pretrained(tmp_path / "later")
    (tmp_path / "later").rename(folder / "later")
    for offline in (False, True):
        options |= {"revision": revision, "local_files_only": offline}
        found = Detector.from_pretrained("user/name", **options)
        assert found.points == detector.points
        pairs = zip(found.parameters(), detector.parameters(), strict=True)
        assert all(ours.equal(theirs) for ours, theirs in pairs)


def test_a_model_that_the_hub_does_not_give(
    detector: Detector, hub: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, options = hub
    detector.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    for name, offline in (("user/other", False), ("user/name", False), ("a/b", True)):
        with pytest.raises(InputError, match=f"no folder {name}, and the Hub gave no") as caught:
            Detector.from_pretrained(name, local_files_only=offline, **options)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(": check the name and the connection.")
    # What cannot be a name on the Hub is not looked for there.
    for path in ("runs/x/model", str(tmp_path / "x"), Path("user/name")):
        with pytest.raises(InputError, match="holds no detector"):
            Detector.from_pretrained(path, endpoint="http://127.0.0.1:1")


def test_a_download_that_breaks_off_is_one_sentence(
    detector: Detector, hub: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, options = hub
    detector.save_pretrained(folder)
    (folder / "breaks_off").touch()
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts
    with pytest.raises(InputError, match=r"the Hub gave no model of that name \(") as caught:
        Detector.from_pretrained("user/name", **options)
    assert_one_sentence(caught.value)


def test_a_cache_that_cannot_be_written_is_no_matter_of_the_connection(
    detector: Detector, hub: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, options = hub
    detector.save_pretrained(folder)
    options["cache_dir"].touch()
    with pytest.raises(
        InputError, match=r"user/name cannot be kept in .*/cache/.*'\): free"
    ) as caught:
        Detector.from_pretrained("user/name", **options)
    assert_one_sentence(caught.value)

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(focus.model.hub, "hf_hub_download", full)
    with pytest.raises(InputError, match=r"No space left on device\): free the place"):
        Detector.from_pretrained("user/name", **options)


def test_a_failed_save_leaves_nothing_beside_what_was_there(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.save_pretrained(tmp_path / "m")
    before = (tmp_path / "m" / "config.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in (OperatingPoints, "write"), (focus.model.hub, "flush"):
        with monkeypatch.context() as patch:
            patch.setattr(*broken, full)
            with pytest.raises(OSError, match="No space left"):
                detector.save_pretrained(tmp_path / "m")
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "config.json").read_bytes() == before


def test_options_that_there_are_not(detector: Detector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "m")
    for options, words in (
        ({"revison": "v2"}, r"with 'revison' \(did you mean revision\?\): give some of revision, "),
        ({"strict": True}, "not loaded with 'strict': give some of"),
        (
            {"revision": "v2"},
            "revision 'v2' is that of a model on the Hub, and .*m is a folder: drop",
        ),
    ):
        with pytest.raises(InputError, match=words) as caught:
            Detector.from_pretrained(tmp_path / "m", **options)
        assert_one_sentence(caught.value)
    Detector.from_pretrained(tmp_path / "m", revision=None, local_files_only=True)
    with pytest.raises(InputError, match="holds no detector"):
        Detector.from_pretrained(tmp_path / "lost", revision="v2")


@pytest.mark.parametrize("given", [None, "*.bin", ["*.bin"]])
def test_earlier_thresholds_do_not_stay_beside_weights_without(
    given: Any, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[Any] = []

    def upload_folder(_: HfApi, **options: Any) -> str:
        names = {path.name for path in Path(options["folder_path"]).iterdir()}
        pushed.append(("thresholds.json" in names, options["delete_patterns"]))
        return "address"

    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **__: RepoUrl(repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    without = Detector(image_size=32)
    for each in (detector, without):
        assert each.push_to_hub("user/name", delete_patterns=given) == "address"
    own = ["*.bin"] if given else []
    assert pushed == [(True, given), (False, [*own, "thresholds.json"])]
    place = tmp_path / "m"
    assert without.save_pretrained(place, push_to_hub=True, repo_id="user/name") == "address"
    assert pushed[-1] == (False, ["thresholds.json"])


def test_the_thresholds_are_not_lost_with_the_connection(
    detector: Detector, hub: tuple[Path, dict[str, Any]]
) -> None:
    folder, options = hub
    detector.save_pretrained(folder)
    Detector.from_pretrained("user/name", **options)
    for cached in options["cache_dir"].rglob("thresholds.json"):
        cached.unlink()
    with pytest.raises(InputError, match="Hub gave no model"):
        Detector.from_pretrained("user/name", local_files_only=True, **options)


def results() -> dict[str, Any]:
    """Of 40 images: every fake of kA above every real one, those of new|er by chance."""
    draw = np.random.default_rng(0)
    label = np.repeat([0, 1, 1], [20, 10, 10])
    score = np.concatenate([draw.uniform(0, 0.5, 20), draw.uniform(0.6, 1, 10), draw.random(10)])
    columns: dict[str, Any] = {name: [""] * 40 for name in ("family", "split", "test_set", "group")}
    columns |= dict.fromkeys(Scores.__dataclass_fields__.keys() - columns, np.zeros(40))
    columns |= {"index": np.arange(40), "path": [f"{n}.png" for n in range(40)]}
    columns |= {"generator": [""] * 20 + ["kA"] * 10 + ["new|er"] * 10}
    points = OperatingPoints(dict.fromkeys(POINTS, 0.55), None, 90, 80)
    scores = Scores(**columns | {"label": label, "score": score})
    return summarise(scores, ["kA"], None, points, resamples=99)


def test_the_card_states_what_was_measured(detector: Detector) -> None:
    measured = results()
    card = model_card(detector.config, detector.points, measured, "9 pictures")
    metadata = ModelCard(card).data.to_dict()
    assert metadata["library_name"] == "focus-faces"
    assert metadata["pipeline_tag"] == "image-classification"
    assert "- Data: 9 pictures" in card
    assert "| eer | 0.25 |" in card
    sure = OperatingPoints(dict.fromkeys(POINTS, 0.9999999701976776), None, 90, 80)
    assert "| eer | 0.9999999701976776 |" in model_card(detector.config, sure)
    assert "| bpcer1 | needs >= 500 real validation images |" in card
    ways = replace(detector.config, geometry=("box margin 0.25", "whole"))
    assert "- Faces: cut out (box margin 0.25); not cut out, whole pictures\n" in model_card(
        ways, None
    )
    closed = measured["closed"]["generators"]["kA"]
    low, high = closed["intervals"]["auc"]
    assert f"| kA | closed | 20 | 10 | 1.000 [{low:.3f}, {high:.3f}] |" in card
    assert low < high
    assert "| new&#124;er | " in card, "a bar would end the cell"
    bpcer = measured["open"]["operating_points"]["intervals"]["eer"]["bpcer"]
    assert f"| eer | 0.000 [{bpcer[0]:.3f}, {bpcer[1]:.3f}] |" in card
    for heading in ("Training", "Thresholds", "Results", "Intended use", "Limits"):
        assert f"\n## {heading}\n" in card


def test_the_card_says_what_is_not_known() -> None:
    card = model_card(Detector(image_size=32).config, None)
    assert "- Data: not recorded" in card
    assert "- Faces: not recorded" in card
    assert "- Loss: not recorded" in card
    assert "Not measured on test images" in card
    assert "saved without validation images" in card
    samples = [Sample("a", 0), Sample("b", 1, map_path="m"), Sample("c", 1)]
    words = trained_on(Manifest(samples), ["/home/somebody/faces.csv", "more/"])
    assert words == "1 real and 2 synthetic images of faces.csv, more, 1 with a human map"
    assert " of t?.csv, 0 with" in trained_on(Manifest([]), ["t\udce9.csv"])  # the card is UTF-8


def test_names_mark_nothing_up_in_the_card(detector: Detector) -> None:
    """Whoever made the data named it, and the card is shown as a page."""
    odd = "<img src=x onerror=alert(1)> `a` *b* [c](d) $e$ ~f~ \\ _g_ | h"
    plain = "StyleGAN2-FFHQ", "stable_diffusion_v1"
    config = replace(
        detector.config,
        training_generators=(odd, "two\nlines", *plain),
        training_families={odd: "<b>"},
        geometry=("<i>",),
    )
    measured = results()
    found = measured["open"]["generators"]
    found[odd + "\n"] = found.pop("new|er")
    data = trained_on(Manifest([]), [f"{odd}\n", "faces_of_1.csv"])
    card = model_card(config, detector.points, measured, data)
    named = [line for line in card.splitlines() if "onerror" in line]
    assert [line[:3] for line in named] == ["- D", "- G", "| &"]
    for line in named:
        assert odd in html.unescape(line)
        assert not set("<>`*$~\\") & set(line)
        assert "[c" not in line
    assert re.search(r"&#95;g&#95; &#124; h\? \| not known \| 20 \| 10 \|", named[2])
    assert f"two?lines, {', '.join(plain)}\n" in card
    assert "(family &#60;b&#62;)" in card
    assert "cut out (&#60;i&#62;)" in card
    assert ", faces_of_1.csv, 0 with a human map\n" in card


def test_the_card_warns_of_a_calibration_against_the_scores(detector: Detector) -> None:
    points = OperatingPoints(dict.fromkeys(POINTS), Calibration(-1, 0, 1), 90, 80)
    card = model_card(detector.config, points)
    assert "| balanced | needs validation images told apart better than by chance |" in card
    assert f"\n\n{points.warning()}\n\n## Results" in card
    assert "slope" not in model_card(detector.config, detector.points)


BEST = "the best on validation of up to {} epochs, seed {}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": "ce"}, "`ce`, 1 x cross-entropy; recipe `demo`, " + BEST.format(20, 0)),
        (
            {"loss": "blend", "focus_weight": 0.3, "cam_class": "contrast", "seed": 3},
            "`blend`, 1 x cross-entropy + 0.3 x focus term (minimize) + 5 x saliency term, on the "
            "contrast CAM; recipe `demo`, " + BEST.format(20, 3),
        ),
        (
            {"loss": "hinge", "focus_schedule": "0:0,5:1", "epochs": 7, "data": ("faces.csv",)},
            "`hinge`, 1 x cross-entropy + 1 x focus term (hinge at 0.6, times 0:0,5:1 over the "
            "epochs), on the CAM of the true class; recipe `paper`, " + BEST.format(7, 0),
        ),
        (
            {"loss": "cyborg", "saliency_schedule": "0:1,9:0"},
            "`cyborg`, 0.5 x cross-entropy + 0.5 x saliency term (times 0:1,9:0 over the epochs), "
            "on the CAM of the predicted class; recipe `demo`, " + BEST.format(20, 0),
        ),
    ],
)
def test_the_card_says_which_loss_it_was_trained_with(given: dict[str, Any], words: str) -> None:
    config = Detector(image_size=32).config
    how = trained_how(resolve(TrainConfig(**given)))
    assert f"\n- Loss: {words}\n" in model_card(config, None, training=how)


def test_a_card_is_kept_and_no_other_readme_is_lost(detector: Detector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "one")
    write_card(tmp_path / "one", "my own words")
    Detector.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / CARD).read_text() == "my own words"
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / CARD).write_text("of a project")
    with pytest.raises(InputError, match=r"more than a detector \(README\.md\)"):
        detector.save_pretrained(tmp_path / "project")
    assert json.loads((tmp_path / "two" / "thresholds.json").read_text())["n_real"] == 90


@pytest.mark.parametrize("name", ["config.json", "thresholds.json", CARD])
def test_a_pipe_in_a_models_folder_is_not_waited_for(tmp_path: Path, name: str) -> None:
    Detector().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "model" / name)
    said = outcome(lambda: Detector.from_pretrained(tmp_path / "model").card, InputError)
    assert said == "None" if name == CARD else "neither a file nor a folder" in said
