"""Every table is read as it was written, whatever a file, a generator or a person is called."""

import csv
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from focus.data.file_pass import BadFile
from focus.data.manifest import Manifest, Sample
from focus.evaluation import robustness
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores
from focus.model.operating_points import choose_threshold
from focus.use.explanations import Explanations

from .evaluation.few_scores import table

WHITESPACE = [b"\r", b"\n", b"\t", b" "]
PUNCTUATION = [b'"', b"'", b",", b";", b"#", b"=", b"\\", b"."]
UNUSUAL = [b"# focus-", b"\x1a", b"\xff", "\ufeff".encode(), "\u2028".encode(), "\x85".encode()]
PARTS = [b"a", b"x", *WHITESPACE, *PUNCTUATION, *UNUSUAL]
NAMES = (
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=12)
    .map(lambda parts: os.fsdecode(b"".join(parts)))
    .filter(lambda name: name not in (".", ".."))
)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file, strict=True))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=st.lists(NAMES, min_size=1, max_size=4))
def test_any_name_comes_back(names: list[str], tmp_path: Path) -> None:
    samples = [Sample(f"{tmp_path}/{name}") for name in names]
    samples += [Sample(f"/{name}", 1, name, name, group=name, extra={"a": name}) for name in names]
    Manifest(samples).to_csv(tmp_path / "manifest.csv")
    assert list(Manifest.from_csv(tmp_path / "manifest.csv")) == samples

    scores = table([(0, name, "open", 0.5) for name in names], path=names, group=names)
    scores.to_csv(tmp_path / "scores.csv")
    reread = Scores.from_csv(tmp_path / "scores.csv")
    assert [*reread.path] == [*reread.generator] == [*reread.group] == names

    aucs = [PerturbedAUC("blur", 1.0, "px", "open", name, 2, 3, 0.5) for name in names]
    assert robustness.read(robustness.write(aucs, tmp_path)) == aucs

    said = {"decision": "real", "score": 0.5, "entropy_predicted": 0.5, "kind": "image"}
    said |= {"unlike": ""}
    rows: list[dict[str, Any]] = [
        {"path": name, "face": None, "overlay": f"overlays/{name}"} | said for name in names
    ]
    head = {"date": "today", "model": {"folder": "model", "config": {"model": "net"}}}
    explanations = Explanations(tmp_path, choose_threshold(None), head, [], rows)
    explanations.frames = {(name, None): [{"at": name}] for name in names}
    explanations.bad = [BadFile(name, "image", name) for name in names]
    explanations.no_face = [(name, name) for name in names]
    explanations.save_tables()
    explained, of_frames, broken, faceless = explanations.written
    assert [row[:2] for row in rows_of(explained)[1:]] == [[name, ""] for name in names]
    assert rows_of(of_frames)[1:] == [[n, n] for n in dict.fromkeys(names)]
    assert rows_of(broken) == [["path", "role", "reason"], *([n, "image", n] for n in names)]
    explanations.frames = {}
    page = explanations.save_page().read_text(encoding="utf-8")
    links = [os.fsdecode(unquote_to_bytes(link)) for link in re.findall(r'href="(o[^"]*)"', page)]
    assert links == [row["overlay"] for row in rows]
    assert rows_of(faceless) == [["path", "reason"], *([n, n] for n in names)]
