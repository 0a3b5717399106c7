"""``evaluate.py --compare``: several runs side by side, from the files that they left."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus import metrics
from focus.config.command_line import parse
from focus.config.train import EvaluateConfig
from focus.data.perturbations import STRENGTHS
from focus.errors import InputError
from focus.evaluation.result_table import figure
from focus.evaluation.results import summarise, write_results
from focus.evaluation.scores import Scores
from focus.metrics import mean_auc_difference
from focus.report import REPORT, comparison, plots
from focus.use import evaluate as evaluation

from ..reports import KINDS, Page, made, measured


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs on the same images; of the third the results are evaluate.py's."""
    folder = tmp_path_factory.mktemp("runs")
    _, scores, _ = made(folder / "images", 12, resamples=0)
    draw = np.random.default_rng(0)
    folders = [folder / "first", folder / "second", folder / "third" / "evaluation"]
    for number, place in enumerate(folders):
        columns = scores.columns()
        columns["score"] = (0.7 * scores.score + 0.1 * number * draw.random(len(scores))) % 1
        changed = Scores(**columns)
        write_results(place, changed, summarise(changed, ["kA"], resamples=20))
    return folders


def compare(folders: list[Path], output: Path) -> Page:
    words = ["--compare", *map(str, folders), "--output", str(output)]
    evaluation.evaluate(parse(EvaluateConfig, words, prog="evaluate.py"))
    return Page(output / REPORT)


def open_rows(scores: Scores) -> list[np.ndarray]:
    """The real images of the open set, and the fakes of each of its generators."""
    is_open = scores.test_set == "open"
    return [
        np.flatnonzero(is_open & (scores.label == label) & (scores.generator == generator))
        for generator, label, test_set in KINDS
        if test_set == "open"
    ]


def test_a_column_a_run_and_the_differences_on_the_same_images(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(runs, tmp_path)
    everything = [json.loads((run / "results.json").read_text()) for run in runs]
    assert ("open", "generators", "uB", "auc") in found.figures
    for keys, texts in found.figures.items():
        assert len(texts) == 3
        for results, text in zip(everything, texts, strict=True):
            value, interval = figure(results, keys)
            expected = "-" if value is None else f"{value:.3f}"
            if interval is not None:
                expected += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
            assert text.strip() == expected, keys
    printed = capsys.readouterr().out
    scored = [Scores.from_csv(run / "scores.csv") for run in runs]
    real, *fakes = open_rows(scored[0])
    means = [results["open"]["mean"]["auc"] for results in everything]
    for name, scores, auc in zip(("second", "third"), scored[1:], means[1:], strict=True):
        difference = mean_auc_difference(
            *(
                [(t.score[real], t.score[fake], real, fake) for fake in fakes]
                for t in (scores, scored[0])
            )
        )
        assert difference is not None
        assert difference.value == pytest.approx(auc - means[0])
        words = (
            f"open-set AUC, mean of 2: {name} - first = {difference.value:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}], p = {difference.p_value:.2g}"
        )
        assert words in printed
        assert words in found.text
    assert "The p-values are not adjusted for 2 runs compared with one." in found.text
    assert f"written: {tmp_path / REPORT}" in printed


def test_a_roc_a_generator_with_a_line_a_run(runs: list[Path], tmp_path: Path) -> None:
    # What an earlier report of more generators left.
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc-07-open-gone.svg").write_text("x")
    found = compare(runs[:2], tmp_path)
    files = sorted(path.name for path in (tmp_path / "figures").glob("*.svg"))
    kinds = ["00-closed-kA", "01-open-b-u-C-b", "02-open-uB"]
    assert files == [f"{kind}-{name}.svg" for kind in ("det", "roc") for name in kinds]
    results = [json.loads((run / "results.json").read_text()) for run in runs[:2]]
    aucs = [each["open"]["generators"]["uB"]["auc"] for each in results]
    words = f"AUC: first {aucs[0]:.3f}, second {aucs[1]:.3f}."
    assert (
        f'aria-label="ROC, uB, open set, the false positive rate on a logarithmic axis. {words}"'
        in found.html
    )
    assert "script" not in found.tags, "there are no images, so nothing to sort"


@pytest.mark.slow
def test_of_many_generators_the_hardest_are_drawn(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = Scores.from_csv(runs[0] / "scores.csv")
    part = scores.select(np.flatnonzero((scores.test_set == "open") & (scores.label == 0)))
    columns, n = part.columns(), len(part)
    names, draw = [f"g{number:02d}" for number in range(13)], np.random.default_rng(0)
    parts = [part]
    for number, name in enumerate(names):
        score = np.clip(part.score + (0.04 * ((number * 5) % 13)) + 0.01 * draw.random(n), 0, 1)
        parts.append(
            Scores(
                **columns
                | {"score": score, "label": np.ones(n), "generator": [name] * n}
                | {"path": [f"{name}/{row}.png" for row in range(n)]}
            )
        )
    for count in (13, 12):
        given = Scores.concatenate(parts[: count + 1])
        results = summarise(given, [], resamples=0)
        folders = [tmp_path / f"{run} {count}" for run in "ab"]
        for folder in folders:
            write_results(folder, given, results)
        capsys.readouterr()
        compare(folders, tmp_path / f"out {count}")
        drawn = sorted(
            path.stem.rpartition("-")[2] for path in (tmp_path / f"out {count}").rglob("roc-*.png")
        )
        said = (
            "ROC and DET, open set: drawn are the 6 of 13 generators with the lowest AUC, the mean "
            "of the runs; the table has all."
        )
        aucs = {name: of["auc"] for name, of in results["open"]["generators"].items()}
        hardest = sorted(sorted(aucs, key=lambda name: aucs[name])[:6])
        assert drawn == (hardest if count == 13 else names[:12])
        assert (said in capsys.readouterr().out) == (count == 13)


@pytest.mark.slow
def test_other_images_and_groups_are_not_tested(runs: list[Path], tmp_path: Path) -> None:
    scores = Scores.from_csv(runs[1] / "scores.csv")
    results = json.loads((runs[1] / "results.json").read_text())
    grouped, fewer = scores.columns(), scores.select(np.arange(1, len(scores)))
    grouped["group"] = np.array(["g"] * len(scores), dtype=object)
    write_results(tmp_path / "grouped", Scores(**grouped), results)
    write_results(tmp_path / "fewer", fewer, summarise(fewer, ["kA"], resamples=0))
    swapped = Scores(**(scores.columns() | {"label": 1 - scores.label}))
    write_results(tmp_path / "swapped", swapped, summarise(swapped, ["kA"], resamples=0))
    names = "grouped", "fewer", "swapped"
    found = compare([runs[0], *(tmp_path / name for name in names)], tmp_path / "out")
    assert (
        "fewer - first: the difference is not tested, their images are not the same files; give "
        "one run's manifest.csv as --data of the other." in found.text
    )
    why = "their images have other labels, generators, test sets or groups"
    for name in ("grouped", "swapped"):
        assert f"{name} - first: the difference is not tested, {why}." in found.text
    assert "p-values" not in found.text


@pytest.mark.slow
def test_images_in_another_order_are_the_same(runs: list[Path], tmp_path: Path) -> None:
    scores = Scores.from_csv(runs[1] / "scores.csv")
    turned = scores.select(np.random.default_rng(0).permutation(len(scores)))
    write_results(tmp_path / "turned", turned, summarise(turned, ["kA"], resamples=0))
    lines = [
        [line for line in found.text.splitlines() if " mean of 2: " in line]
        for found in (
            compare([runs[0], run], tmp_path / f"out{n}")
            for n, run in enumerate((runs[1], tmp_path / "turned"))
        )
    ]
    assert lines[0]
    assert [line.replace("turned", runs[1].name) for line in lines[1]] == lines[0]


@pytest.mark.slow
def test_groups_of_both_runs_are_told_apart_together(runs: list[Path], tmp_path: Path) -> None:
    for name in ("alone", "pairs"):
        scored = []
        for run in runs[:2]:
            columns = Scores.from_csv(run / "scores.csv").columns()
            if name == "pairs":
                columns["group"] = np.array(
                    [f"g{n // 2}" for n in range(len(columns["path"]))], object
                )
            scores = Scores(**columns)
            scored.append(scores)
            write_results(
                tmp_path / name / run.name, scores, summarise(scores, ["kA"], resamples=0)
            )
        found = compare([tmp_path / name / run.name for run in runs[:2]], tmp_path / "out" / name)
        (low,) = re.findall(r"open-set AUC, mean of 2: .* = \S+ \[(\S+),", found.text)
        unit = metrics.units(scored[0].group, scored[0].images)
        real, *fakes = open_rows(scored[0])
        wanted = mean_auc_difference(
            *(
                [(t.score[real], t.score[fake], unit[real], unit[fake]) for fake in fakes]
                for t in reversed(scored)
            )
        )
        assert low == f"{wanted.low:+.3f}"


@pytest.mark.slow
def test_models_that_know_other_generators_have_no_test_set_in_common(
    runs: list[Path], tmp_path: Path
) -> None:
    """What is open to one is closed to the other: tested as one set, it would say nothing."""
    scores = Scores.from_csv(runs[0] / "scores.csv")
    unsplit = scores.columns()
    unsplit["test_set"] = np.array([""] * len(scores), dtype=object)
    for name in ("kA", "uB"):
        table = Scores(**unsplit)
        write_results(tmp_path / name, table, summarise(table, [name], resamples=0))
    found = compare([tmp_path / "kA", tmp_path / "uB"], tmp_path / "out")
    assert "uB - kA: the difference is not tested, they know other generators" in found.text
    assert "p =" not in found.text


def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    table = Scores.from_csv(runs[0] / "scores.csv")
    results = json.loads((runs[0] / "results.json").read_text())
    write_results(tmp_path / "first", table, results)
    found = compare([runs[0], tmp_path / "first"], tmp_path / "out")
    assert f"{runs[0]}: 60 images" in found.text
    assert f"{tmp_path / 'first'}: 60 images" in found.text


def test_a_name_cannot_forge_a_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd\n\x1b[2J"
    shutil.copytree(runs[0], odd)
    found = compare([odd, runs[1]], tmp_path / "out")
    assert r"'odd\n\x1b[2J'" in capsys.readouterr().out
    assert r"'odd\n\x1b[2J': 60 images" in found.text


def test_robustness_is_the_mean_over_the_generators_that_all_have(
    runs: list[Path], tmp_path: Path
) -> None:
    odd = "<b>u&C</b>"
    falls = [{"uB": 0.01, odd: 0.02}, {"uB": 0.02, odd: 0.04, "kA": 0.05}, {}]
    names = ["one", "two", "three"]
    everything = [
        measured(tmp_path / name, source, fall, ["closed", "open"] if "kA" in fall else ["open"])
        for name, source, fall in zip(names, [*runs[:2], runs[0]], falls, strict=True)
    ]
    folders = [str(tmp_path / name) for name in names]
    found = [
        comparison._read(name, Path(folder)) for name, folder in zip(names, folders, strict=True)
    ]
    kept, said = comparison._mean_kept(found, folders)
    assert said == ["three: robustness was not measured (evaluate.py --robustness)."]
    assert list(kept) == ["closed", "open"]
    # Alone there is nothing to share.
    assert (kept["closed"].generators, kept["open"].generators) == (["kA"], ["uB", odd])
    drawn = plots.of_runs_robustness(kept, names)
    assert [plot.name for plot in drawn] == [
        f"robustness-{test_set}-{name}" for test_set in ("closed", "open") for name in STRENGTHS
    ]
    for plot, name in zip(drawn[4:], STRENGTHS, strict=True):
        (axes,) = plot.draw().axes
        lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
        for run, results, fall in (("one", everything[0], 0.015), ("two", everything[1], 0.03)):
            aucs = [results["open"]["generators"][g]["auc"] for g in ("uB", odd)]
            expected = np.mean(aucs) - fall * np.arange(6)
            np.testing.assert_allclose(lines[run], expected, atol=1e-5)
        assert "three" not in lines
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == ["clean", *(f"{strength:g}" for strength in STRENGTHS[name])]
    first = everything[0]["open"]["generators"]
    mean = (first["uB"]["auc"] + first[odd]["auc"]) / 2
    assert f"mean of uB, {odd}: one {mean:.3f} clean, {mean - 0.075:.3f} at 30; two" in drawn[4].alt
    assert drawn[4].title == "AUC under jpeg, open set, mean of 2 generators"


def test_a_run_has_one_colour(runs: list[Path], tmp_path: Path) -> None:
    """Also in a figure that the one before it is not in."""
    measured(tmp_path / "one", runs[0], {"uB": 0.01}, ["open"])
    measured(tmp_path / "two", runs[1], {"kA": 0.01}, ["closed"])
    folders = [str(tmp_path / name) for name in ("one", "two")]
    names = ["one", "two"]
    found = [
        comparison._read(name, Path(folder)) for name, folder in zip(names, folders, strict=True)
    ]
    kept, _ = comparison._mean_kept(found, folders)
    roc = plots.of_runs(comparison._curves(found), names)[0].draw().axes[0]
    colour = {line.get_label().split()[0]: line.get_color() for line in roc.get_lines()}
    for plot in plots.of_runs_robustness(kept, names):
        line = plot.draw().axes[0].get_lines()[0]
        assert line.get_color() == colour[line.get_label()], plot.name
    assert colour["one"] != colour["two"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["first", "second"], ["first", "second"]),
        (
            ["cyborg-densenet121-blend-seed0", "cyborg-densenet121-ce-seed0"],
            ["...blend-seed0", "...ce-seed0"],
        ),
        (
            ["/data/of/all/our/runs/a/x", "/data/of/all/our/runs/b/x"],
            ["/data...runs/a/x", "/data...runs/b/x"],
        ),
        ([f"{at}a-run-of-a-long-name" for at in "xyx"], None),
        ([f"a-run-of-a-long-name{end}" for end in ("", "-and-much-more", "$")], None),
        (["of-one-place-with-a-very-long-a", "of-one-place-with-a-very-long-b", "z"], None),
    ],
)
def test_runs_are_told_apart_in_legends(names: list[str], expected: list[str] | None) -> None:
    names = list(dict.fromkeys(names))
    scores = np.array([0.25, 0.5])
    aucs = {(name, kind): [0.75] * 6 for name in names for kind in STRENGTHS}
    drawn = [
        plots.of_runs({("open", "x"): [plots.Curve(n, scores, scores, 0.5) for n in names]}, names),
        plots.of_runs_robustness({"open": plots.MeanKept(["x"], aucs)}, names),
    ]
    for several in drawn:
        (legend,) = several[0].draw().legends
        said = [text.get_text().removesuffix("  0.500") for text in legend.get_texts()]
        assert len(set(said)) == len(names)
        assert max(map(len, said)) <= 17
        assert said == (expected or said)


@pytest.mark.slow
def test_robustness_on_no_common_generator_is_said(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(tmp_path / "one", runs[0], {"uB": 0.01}, ["open"])
    measured(tmp_path / "two", runs[1], {"<b>u&C</b>": 0.01}, ["open"])
    found = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    words = "Robustness, open set: the runs have no generator in common."
    assert words in found.text
    assert words in capsys.readouterr().out
    assert not list((tmp_path / "out" / "figures").glob("robustness*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"compare": ("RUN",)}, "--compare needs two runs at least, got .*first alone"),
        ({"compare": ("RUN", "RUN")}, "--compare has .*first twice: give different runs"),
        ({"compare": ("RUN", "nowhere")}, "--compare nowhere has no results.json: give run fold"),
        ({"compare": ("RUN", "UNENDED")}, "UNENDED is a run that has not ended: .* --resume, or"),
        ({"compare": ("RUN", "OLD")}, "results.json has version 1, this program reads 2"),
        ({"compare": ("RUN", "BROKEN")}, "BROKEN cannot be read .JSONDecodeError.*evaluate the"),
        ({"compare": ("RUN", "HALF")}, "HALF cannot be read .FileNotFoundError"),
        ({"compare": ("RUN", "DEEP")}, "DEEP cannot be read .RecursionError.*evaluate the"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    runs: list[Path], tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    texts = {"OLD": '{"version": 1}', "BROKEN": "{", "HALF": '{"version": 2}', "DEEP": "[" * 99_999}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    scores = (runs[0] / "scores.csv").read_bytes()
    for name in ("OLD", "BROKEN"):
        (tmp_path / name / "scores.csv").write_bytes(scores)
    (tmp_path / "UNENDED").mkdir()
    for name in ("config.yaml", "manifest.csv"):
        (tmp_path / "UNENDED" / name).touch()
    places = {"RUN": str(runs[0])} | {name: str(tmp_path / name) for name in (*texts, "UNENDED")}
    given = given | {"compare": tuple(places.get(name, name) for name in given["compare"])}
    with pytest.raises(InputError, match=message) as caught:
        evaluation.evaluate(EvaluateConfig(output=str(tmp_path / "out"), **given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((), {"version": 2, "closed": 3}),
        (("training_generators",), 3),
        (("training_generators",), [3]),
        (("training_generators",), ["kA", "uB"]),  # by which the fakes of uB are in another set
        (("closed",), 3),
        (("closed", "generators"), {}),
        (("closed", "generators", "kA"), 3),
        (("closed", "generators", "kA", "auc"), "high"),
        (("open", "pooled"), []),
        pytest.param(("open", "pooled", "entropy"), 10**400, id="huge"),
        (("open", "generators", "uB"), {}),
        (("open", "mean", "intervals", "auc"), [0.5]),
    ],
)
def test_results_of_another_shape_are_refused(
    runs: list[Path], tmp_path: Path, keys: tuple[str, ...], value: Any
) -> None:
    scores = Scores.from_csv(runs[0] / "scores.csv")
    scores.test_set[:] = ""
    write_results(tmp_path / "odd", scores, summarise(scores, ["kA"], resamples=20))
    path = tmp_path / "odd" / "results.json"
    within = {"": json.loads(path.read_text())}
    *outer, last = ("", *keys)
    place: Any = within
    for key in outer:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(within[""]))
    with pytest.raises(
        InputError, match=r"odd cannot be read .*: evaluate the run again"
    ) as caught:
        compare([runs[0], tmp_path / "odd"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["shorter", "of another model"])
def test_scores_of_other_results_are_refused(runs: list[Path], tmp_path: Path, other: str) -> None:
    results = json.loads((runs[0] / "results.json").read_text())
    first, second = (Scores.from_csv(run / "scores.csv") for run in runs[:2])
    assert first.label.tolist() == second.label.tolist()
    scores = first.select(np.arange(len(first) - 1)) if other == "shorter" else second
    write_results(tmp_path / "odd", scores, results)
    with pytest.raises(InputError, match=r"odd has a scores.csv and a results.json that are not "):
        compare([runs[0], tmp_path / "odd"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
