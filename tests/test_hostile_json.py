"""JSON in a folder that is not what it should be: read, or refused in one sentence, never more."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from focus.config.losses import LossConfig
from focus.config.options import POINTS
from focus.data.maps import human_map, source_of
from focus.data.readers.folders import read_deepfakebench
from focus.data.readers.human_maps import drawn_references
from focus.errors import InputError
from focus.metrics.calibration import Calibration
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints
from focus.training import checkpoint
from focus.training.run_folder import check_folder

from .model.detectors import assert_one_sentence
from .training.trainers import few_faces, trainer

GONE = object()
NAN, INFINITE = float("nan"), float("inf")
SCALARS = [None, True, 0, -1, 1.5, 10**30, 1e-300, 1e300, NAN, INFINITE, "", "lbp margin nan"]
CONTAINERS = [[], ["lbp margin nan"], [1], [[1]], {}, {"x": 1}]
VALUES = [*SCALARS, *CONTAINERS, GONE]
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 6, "height": 4}],
    "annotations": [
        {"image_id": 1, "annotator": "A", "segmentation": [[0, 0, 2, 0, 2, 2]], "iscrowd": 0},
        {"image_id": 1, "annotator": "B", "bbox": [1, 1, 3, 2]},
    ],
}


def ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each part of a document, itself first."""
    yield way
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from ways(value[key], (*way, key))


def changed(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    if not way:
        return {} if value is GONE else value
    document = deepcopy(document)
    part = document
    for key in way[:-1]:
        part = part[key]
    if value is GONE:
        del part[way[-1]]
    else:
        part[way[-1]] = value
    return document


class Case:
    """A file in a folder, and what reads it."""

    def __init__(self, file: Path, use: Callable[[], object]) -> None:
        self.file, self.use, self.whole = file, use, json.loads(file.read_text())

    def refused(self, document: Any) -> str:
        """Return the sentence that refuses a document, "" if it is read."""
        if "train_state" in self.whole and isinstance(document, dict):  # a checkpoint is signed
            document = {name: value for name, value in document.items() if name != "checksum"}
            text = checkpoint._signed(document).decode()
        else:
            text = json.dumps(document)
        self.file.write_text(text)
        try:
            self.use()
        except InputError as error:
            assert_one_sentence(error)
            return str(error)
        return ""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("hostile")
    cases_by_name: dict[str, Case] = {}

    def add(name: str, text: str, use: Callable[[], object]) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        cases_by_name[name] = Case(folder / name, use)

    torch.manual_seed(0)
    faces = few_faces(folder)
    detector = Detector(image_size=32, loss=LossConfig(temperature=2.0))
    detector.config = detector.config.after(["g"], {"g": "GAN"}, ["lbp margin 0.3"])
    detector.points = OperatingPoints(dict.fromkeys(POINTS, 0.5), Calibration(1, 0, 1, 3), 9, 9)
    detector.save_pretrained(folder / "model")

    def predict() -> None:
        loaded = Detector.from_pretrained(folder / "model")
        (score,) = loaded.predict(faces[0].path).score
        assert 0 <= score <= 1
        loaded.points and loaded.points.calibration and loaded.points.calibration.llr(
            [float(score)]
        )

    for name in ("config.json", "thresholds.json"):
        add(f"model/{name}", (folder / "model" / name).read_text(), predict)
    bare = Detector("test_resnet", image_size=64)
    torch.save(bare.backbone.state_dict(), folder / "timm.pt")
    weights = folder / "timm" / "model.pt"
    values = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.5] * 3, "std": [1] * 3}}
    add(
        "timm/config.json",
        json.dumps(values),
        lambda: Detector("test_resnet", image_size=64, initial_checkpoint=weights),
    )
    (folder / "timm.pt").rename(weights)
    add(
        "maps/focus-maps.json",
        '{"version": 1, "source": "pca"}',
        lambda: source_of(folder / "maps"),
    )
    add(
        "coco.json",
        json.dumps(COCO),
        lambda: [human_map(r) for r in drawn_references(folder / "coco.json").values()],
    )
    video = "original_sequences/youtube/c23/frames/071"
    add(
        "ff/train.json",
        '[["071", "054"]]',
        lambda: read_deepfakebench(folder, [f"{folder}/ff/{video}"]),
    )

    run = trainer(faces, folder, epochs=1, model_ema_decay=0.9, loss="match")
    run.fit()
    config = replace(run.config, resume=True)

    def resume() -> None:
        saved = check_folder(config)
        assert saved is not None
        again = trainer(faces, folder, epochs=1, model_ema_decay=0.9, loss="match", resume=True)
        checkpoint.load_checkpoint(saved.path, saved.values, again._parts())

    (last,) = (run.folder / "checkpoints").glob("step-*")
    add(str((last / "state.json").relative_to(folder)), (last / "state.json").read_text(), resume)
    return cases_by_name


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_part_of_a_document_may_be_replaced_or_gone(
    cases: dict[str, Case], data: st.DataObject
) -> None:
    case = cases[data.draw(st.sampled_from(sorted(cases)))]
    way = data.draw(st.sampled_from(list(ways(case.whole))))
    case.refused(changed(case.whole, way, data.draw(st.sampled_from(VALUES))))
    assert case.refused(case.whole) == ""


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("model/config.json", "version", 2, "version 2, this program reads 1.: read it with the"),
        ("model/config.json", "version", GONE, "missing required field `version`.: give the fold"),
        ("model/config.json", "unknown", 1, "unknown field 'unknown'"),
        ("model/config.json", "model", "resnet1", "no network 'resnet1' in timm .did you mean"),
        ("model/config.json", "temperature", 1e-300, r"`float` >= 0.0001 - at `\$.temperature`"),
        ("model/config.json", "image_size", "32", r"`int`, got `str` - at `\$.image_size`"),
        ("model/config.json", "num_classes", True, r"`int`, got `bool` - at `\$.num_classes`"),
        ("model/config.json", "mean", [0.5], r"`array` of length 3, got 1 - at `\$.mean`"),
        ("model/config.json", "std", [1, 1, 0], r"`float` >= 0.001 - at `\$.std\[2\]`"),
        ("model/config.json", "num_classes", 3, r"weight should be \[3, 96\], got \[2, 96\]"),
        ("model/config.json", "image_size", 64000, r"`int` <= 4096 - at `\$.image_size`"),
        ("model/thresholds.json", "version", 1, "version 1, this program reads 2"),
        ("model/thresholds.json", "decides", "best", r"'best' - at `\$.decides`.: remove it, or"),
        ("model/thresholds.json", "thresholds", {"eer": 0.5}, "`object` of length >= 4"),
        ("model/thresholds.json", "n_real", "1", r"`int`, got `str` - at `\$.n_real`"),
        ("run/checkpoints", "checksums", {}, r"object` of length >= 2 - at `\$.checksums`"),
        ("run/checkpoints", "train_state", {"epoch": "1"}, "a state of another program"),
        ("coco.json", "annotations", [{"image_id": 7}], "is of the image '7', which"),
    ],
)
def test_what_is_wrong_is_said(
    name: str, field: str, value: object, words: str, cases: dict[str, Case]
) -> None:
    case = next(case for path, case in cases.items() if path.startswith(name))
    assert re.search(words, case.refused(changed(case.whole | {field: None}, (field,), value)))
    assert case.refused(case.whole) == ""


def test_no_json_at_all(cases: dict[str, Case]) -> None:
    for case in cases.values():
        whole = case.file.read_bytes()
        for content in (b"", b"{", b"9" * 9999, b"[" * 99999, b"\xff", whole[:-9]):
            case.file.write_bytes(content)
            with pytest.raises(InputError) as caught:
                case.use()
            assert_one_sentence(caught.value)
        case.file.write_bytes(whole)
        case.use()
