"""Every table is read as it was written, whatever a file, a generator or a person is called."""

import csv
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from focus.data.bad_files import BadFile
from focus.data.manifest import Manifest, Sample
from focus.evaluation import robustness
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores
from focus.use.explanations import write_page, write_tables

from .evaluation.few_scores import table

PARTS = [
    *(b"\r", b"\n", b"\t", b"\0x"[1:], b'"', b"'", b",", b";", b"#", b" ", b"=", b"\\", b"a", b"."),
    *(b"# focus-", b"\x1a", b"\xff", "\ufeff".encode(), "\u2028".encode(), "\x85".encode()),
]
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
    found = Scores.from_csv(tmp_path / "scores.csv")
    assert [*found.path] == [*found.generator] == [*found.group] == names

    aucs = [PerturbedAUC("blur", 1.0, "px", "open", name, 2, 3, 0.5) for name in names]
    assert robustness.read(robustness.write(aucs, tmp_path)) == aucs

    rows: list[dict[str, Any]] = [{"path": name, "face": None} for name in names]
    frames = {(name, None): [{"at": name}] for name in names}
    bad, no_face = (
        [BadFile(name, "image", name) for name in names],
        [(name, name) for name in names],
    )
    explained, of_frames, broken, faceless = write_tables(tmp_path, rows, frames, bad, no_face)
    assert rows_of(explained) == [["path", "face"], *([name, ""] for name in names)]
    assert rows_of(of_frames) == [["path", "at"], *([name, name] for name in dict.fromkeys(names))]
    assert rows_of(broken) == [["path", "role", "reason"], *([n, "image", n] for n in names)]
    said = {"decision": "real", "score": 0.5, "entropy_predicted": 0.5}
    items = [row | said | {"overlay": f"overlays/{row['path']}"} for row in rows]
    page = write_page(tmp_path, "", [], items, {}).read_text(encoding="utf-8")
    links = [os.fsdecode(unquote_to_bytes(link)) for link in re.findall(r'href="(o[^"]*)"', page)]
    assert links == [item["overlay"] for item in items]
    assert rows_of(faceless) == [["path", "reason"], *([n, n] for n in names)]
