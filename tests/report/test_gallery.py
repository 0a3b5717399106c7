"""The images of a report: chosen evenly, with the pictures of their rows, and a table of all."""

from pathlib import Path

import numpy as np
import pytest

from focus.data.images import Preprocessing
from focus.data.manifest import Manifest
from focus.data.overlay import strip
from focus.evaluation.protocol import match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.report import gallery

from .reports import made

Made = tuple[Manifest, Scores, Results]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("images"), 30, resamples=0)


def test_images_are_chosen_evenly_and_not_by_hand(evaluation: Made) -> None:
    _, scores, results = evaluation
    test_sets = gallery.sets(scores, match(scores, results["training_generators"]))
    chosen, per_kind = gallery.pick_rows(scores, test_sets, shown=60)
    again, _ = gallery.pick_rows(scores, test_sets, shown=60)
    assert chosen.tolist() == again.tolist() == sorted(set(chosen.tolist()))
    outcome = gallery.outcomes(scores)
    kinds = list(zip(test_sets, scores.label, scores.generator, outcome, strict=True))
    sizes = {kind: kinds.count(kind) for kind in set(kinds)}
    counts = {kind: sum(kinds[row] == kind for row in chosen) for kind in sizes}
    assert counts == {kind: min(size, per_kind) for kind, size in sizes.items()}
    assert len(chosen) <= 60 < sum(min(size, per_kind + 1) for size in sizes.values())
    # Of a kind, the middle of equal parts by score.
    kind = max(sizes, key=lambda k: sizes[k])
    members = np.array([row for row in range(len(scores)) if kinds[row] == kind])
    ranks = scores.score[members].argsort().argsort()
    taken = np.sort(ranks[np.isin(members, chosen)])
    parts = taken * per_kind // len(members)
    assert parts.tolist() == list(range(per_kind))
    # More kinds than pictures: one each, none is left out. Enough pictures: all.
    assert len(gallery.pick_rows(scores, test_sets, shown=1)[0]) == len(sizes)
    assert gallery.pick_rows(scores, test_sets, shown=10**6)[0].tolist() == list(range(len(scores)))


def test_the_table_of_images_is_that_of_the_scores(evaluation: Made) -> None:
    _, scores, results = evaluation
    test_sets = gallery.sets(scores, match(scores, results["training_generators"]))
    data = gallery.table(scores, test_sets, np.arange(3))
    assert [f"{data['root']}/{path}" for path in data["path"]] == scores.path.tolist()
    assert data["score"] == [round(float(score), 4) for score in scores.score]
    assert data["cam_range"] == [round(float(value), 4) for value in scores.cam_range]
    assert data["entropy"] == [round(float(value), 4) for value in scores.entropy_predicted]
    assert data["label"] == scores.label.tolist()
    names = [data["generators"][at] for at in data["generator"]]
    assert names == [name or "real" for name in scores.generator]
    assert [data["sets"][at] for at in data["set"]] == scores.test_set.tolist()
    wrong = (scores.predicted == 1) != (scores.label == 1)
    outcomes = np.array([data["outcomes"][at] for at in data["outcome"]])
    assert (np.isin(outcomes, ["missed", "false alarm"]) == wrong).all()
    assert (outcomes[wrong & (scores.label == 1)] == "missed").all()
    assert (outcomes[wrong & (scores.label == 0)] == "false alarm").all()


def test_the_pictures_are_those_of_the_rows(evaluation: Made, tmp_path: Path) -> None:
    """With the CAM that the image was scored with over the face."""
    manifest, scores, _ = evaluation
    found = gallery.pictures(manifest, scores, [40, 5], [Preprocessing(32, (2, 2))])
    for (row, uri), expected in zip(found, [40, 5], strict=True):
        assert row == expected
        assert scores.cams is not None
        shown = gallery.as_data_uri(strip(manifest[row], scores.cams[row], gallery.SIDE))
        assert uri == shown
        assert uri.startswith("data:image/webp;base64,")
