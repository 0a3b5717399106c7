"""What evaluate.py does: results, files, screen, what is left out, several processes."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from focus.config.train import TrainConfig, write_config
from focus.config.use import EvaluateConfig, ExplainConfig
from focus.data.manifest import Manifest, Sample, Split
from focus.errors import InputError
from focus.evaluation import findings
from focus.evaluation.measured import measured
from focus.evaluation.provenance import data_digest
from focus.evaluation.result_table import SHOWN_ROWS, format_table
from focus.evaluation.results import write_results
from focus.evaluation.scores import Scores
from focus.findings import Finding
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints
from focus.use import evaluate as evaluation
from focus.use.explain import explain

from ..launching import python
from ..report.reports import Page

PROGRAM = Path(__file__).parents[2] / "evaluate.py"
SPLITS: tuple[Split, ...] = ("train", "train", "validation", "test", "test", "", "test")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector, in a run folder that has data of its own."""
    run = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    Detector(image_size=32, training_generators=("known",)).save_pretrained(run / "model")
    write_config(TrainConfig(data=("faces.csv",)), run / "config.yaml")
    return run / "model"


def noise(folder: Path, count: int) -> Path:
    """A folder of random pictures."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        pixels = generator.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def evaluate(**flags: Any) -> None:
    flags = {"workers": 0, "threads": 1, "report": False} | flags
    print(evaluation.evaluate(EvaluateConfig(**flags)))


@pytest.fixture
def own_run(model: Path, tmp_path: Path) -> Path:
    """A run on seven images, 0.png to 6.png of the folder ``images``, in these splits."""
    images = noise(tmp_path / "images", len(SPLITS))
    shutil.copytree(model.parent, tmp_path / "run")
    record = Manifest(
        Sample(str(images / f"{number}.png"), label=number % 2, split=split)
        for number, split in enumerate(SPLITS)
    )
    record.to_csv(tmp_path / "run" / "manifest.csv")
    return tmp_path / "run"


def names_of(output: Path) -> list[str]:
    return [Path(path).name for path in Scores.from_csv(output / "scores.csv").path]


def test_evaluate_writes_what_it_prints(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Audit:
        def findings(self, *said: str) -> list[Finding]:
            return [Finding("error", " ".join(said))]

    monkeypatch.setattr(findings, "storage_audit", lambda samples: Audit())
    noise(tmp_path / "data" / "known" / "0_real", 3)
    noise(tmp_path / "data" / "known" / "1_fake", 4)
    out = tmp_path / "out"
    arguments: dict[str, Any] = {"run": str(model.parent), "output": str(out)}
    arguments |= {"data": (str(tmp_path / "data"),)}
    evaluate(
        **arguments,
        test_data={"new": str(noise(tmp_path / "fakes", 5))},
        test_real={"apart": str(noise(tmp_path / "reals", 6))},
        robustness=True,
        equalise=True,
        faithfulness=True,
        report=True,
    )
    results = json.loads((out / "results.json").read_text())
    closed, new = results["closed"]["pooled"], results["open"]["generators"]["new"]
    assert (closed["n_real"], closed["n_synthetic"], new["n_real"], new["n_synthetic"]) == (
        3,
        4,
        6,
        5,
    )
    assert closed["faithfulness"]["n"] == 7
    scores = Scores.from_csv(out / "scores.csv")
    is_known = scores.generator == "known"
    auc = roc_auc_score(scores.label[is_known], scores.score[is_known])
    assert closed["auc"] == pytest.approx(auc)
    printed = capsys.readouterr().out
    errors = [finding["text"] for finding in results["findings"] if finding["severity"] == "error"]
    said = "its AUC may be that of the files"
    assert [text.partition(";")[0] for text in errors if said in text] == [
        f"{name} {said}" for name in ("closed set", "closed-balanced set", "open set")
    ]
    # Last, after all that is written.
    assert printed.splitlines()[-len(results["findings"]) :] == [
        f"{finding['severity']}: {finding['text']}" for finding in results["findings"]
    ]
    assert format_table({"first": results}, most=SHOWN_ROWS) in printed
    assert f"AUC, closed, blur (sigma in pixels): clean {auc:.3f}; " in printed
    assert f"AUC, closed, equalise (quality): clean {auc:.3f}; " in printed
    assert "Faithfulness, closed: the decision's probability falls by " in printed
    files = ["results.json", "scores.csv", "overlays.png", "robustness.csv", "robustness.png"]
    for name in (*files, "faithfulness.csv", "report.html"):
        assert f"written: {out / name}" in printed
        assert (out / name).is_file()
    # The report is of these scores: without one there is none.
    assert f"{results['open']['mean']['auc']:.3f}" in (out / "report.html").read_text()


def test_what_was_measured_before_stays_or_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It took 25 times the time of the scores. Of other scores it would be wrong."""
    noise(tmp_path / "data" / "known" / "0_real", 5)
    noise(tmp_path / "data" / "known" / "1_fake", 4)
    out = tmp_path / "out"
    arguments: dict[str, Any] = {"output": str(out), "data": (str(tmp_path / "data"),)}
    evaluate(model_dir=str(model), **arguments, robustness=True)
    perturbed = (out / "robustness.csv").read_text()
    drawn = (out / "robustness.png").read_bytes()
    evaluate(model_dir=str(model), **arguments, faithfulness=True)
    assert (out / "robustness.csv").read_text() == perturbed
    assert (out / "robustness.png").read_bytes() == drawn
    falls = json.loads((out / "results.json").read_text())["closed"]["pooled"]["faithfulness"]
    capsys.readouterr()
    evaluate(model_dir=str(model), **arguments, equalise=True, report=True)
    after = (out / "robustness.csv").read_text()
    assert after.startswith(perturbed)
    assert "equalise" in after.removeprefix(perturbed)
    results = json.loads((out / "results.json").read_text())
    assert results["closed"]["pooled"]["faithfulness"] == falls
    assert "kept, as measured before on the same scores: jpeg, blur, resize, noise, shared, " in (
        capsys.readouterr().out
    )
    assert "robustness-jpeg" in (out / "report.html").read_text()

    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    noise(tmp_path / "more", 2)
    with pytest.raises(InputError, match=r"of other images.*: give another --output, or remove"):
        evaluate(model_dir=str(model), **arguments, test_real={"more": str(tmp_path / "more")})
    with pytest.raises(InputError, match=r"faithfulness.csv of another --threshold: give"):
        evaluate(model_dir=str(model), **arguments, threshold="0.9")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_an_evaluation_that_is_saved_again_keeps_what_it_measured(
    model: Path, tmp_path: Path
) -> None:
    """Saved again from Python it lost robustness and faithfulness of its own scores."""
    noise(tmp_path / "data" / "known" / "0_real", 3)
    noise(tmp_path / "data" / "known" / "1_fake", 2)
    flags: dict[str, Any] = {"model_dir": str(model), "data": (str(tmp_path / "data"),)}
    flags |= {"workers": 0, "threads": 1, "report": False}
    out = tmp_path / "out"
    measuring = EvaluateConfig(**flags, output=str(out), equalise=True, faithfulness=True)
    first = evaluation.evaluate(measuring)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert files.keys() >= {"robustness.csv", "robustness.png", "faithfulness.csv"}
    assert first is not None
    first.save()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files

    other = evaluation.evaluate(EvaluateConfig(**flags, output=str(tmp_path / "2"), threshold=".9"))
    assert other is not None
    other.save(out)
    assert not {path.name for path in out.iterdir()} & {"robustness.csv", "faithfulness.csv"}


def test_what_another_model_measured_is_refused_before_images_are_scored(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring may take hours; in another order the same images are the same."""
    images = noise(tmp_path / "images", 6)
    samples = [Sample(str(images / f"{n}.png"), label=n % 2, generator="new") for n in range(6)]
    Manifest(samples).to_csv(tmp_path / "faces.csv")
    Manifest(reversed(samples)).to_csv(tmp_path / "reversed.csv")
    out = tmp_path / "out"
    flags: dict[str, Any] = {"data": (str(tmp_path / "faces.csv"),), "output": str(out)}
    evaluate(model_dir=str(model), **flags, equalise=True)
    perturbed = (out / "robustness.csv").read_text()
    origin = json.loads((out / "results.json").read_text())["provenance"]
    saved = json.loads((model / "config.json").read_text())
    assert (origin["weights_sha256"], origin["precision"]) == (saved["weights_sha256"], "no")

    evaluate(model_dir=str(model), **flags | {"data": (str(tmp_path / "reversed.csv"),)})
    assert (out / "robustness.csv").read_text() == perturbed
    assert Scores.from_csv(out / "scores.csv").path[0] == samples[-1].path

    torch.manual_seed(1)
    trained_on = tmp_path / "trained on"
    Detector(image_size=32, training_generators=("known",)).save_pretrained(trained_on)
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def score_none(*_: object, **__: object) -> None:
        pytest.fail("images are scored before the refusal")

    monkeypatch.setattr("focus.use.score.score_images", score_none)
    with pytest.raises(InputError, match=r"robustness.csv of other weights: give another --outp"):
        evaluate(model_dir=str(trained_on), **flags)
    grouped = [replace(sample, group=str(n // 2)) for n, sample in enumerate(samples)]
    Manifest(grouped).to_csv(tmp_path / "grouped.csv")
    with pytest.raises(InputError, match=r"of other images, or the same in other groups: give"):
        evaluate(model_dir=str(model), **flags | {"data": (str(tmp_path / "grouped.csv"),)})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files

    noise(tmp_path / "others", 7)
    shutil.copy(tmp_path / "others" / "6.png", images / "0.png")
    with pytest.raises(InputError, match=r"robustness.csv of other contents of the images: give"):
        evaluate(model_dir=str(model), **flags)


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"precision": "bf16"}, r"robustness.csv of another --mixed-precision: give another --out"),
        ({}, r"robustness.csv of a model that is not recorded there: give another --output"),
    ],
)
def test_what_was_measured_in_another_precision_is_refused(
    tmp_path: Path, recorded: dict[str, str], message: str
) -> None:
    """Results of an earlier version record neither weights nor precision."""
    manifest = Manifest([Sample("/a.png", label=0)])
    origin = {"data_sha256": data_digest(manifest), "weights_sha256": "0a", "precision": "no"}
    scores = Scores.without_cams(path=["/a.png"], label=[0], score=[0.5])
    before = origin | recorded if recorded else {"data_sha256": origin["data_sha256"]}
    write_results(tmp_path, scores, {"provenance": before})
    (tmp_path / "robustness.csv").touch()
    with pytest.raises(InputError, match=message):
        measured(tmp_path, manifest, origin, 0.5)


@pytest.mark.parametrize("flag", [None, "0.9"])
def test_one_threshold_decides_everywhere(
    detector: Detector, tmp_path: Path, flag: str | None
) -> None:
    """Scores, CAMs, outcomes in the page, rates, explanations and predict, of each image."""
    for name in ("0_real", "1_fake"):
        noise(tmp_path / "data" / name, 8)
    images = sorted((tmp_path / "data").glob("*/*.png"))
    predicted_scores = detector.predict(images).score.numpy()
    low, high = np.quantile(predicted_scores, [0.25, 0.75])
    detector.points = OperatingPoints(
        {"eer": high, "bpcer1": None, "bpcer5": low, "balanced": None}, None, 8, 8
    )
    detector.save_pretrained(tmp_path / "model")
    value = {None: high, "0.9": 0.9}[flag]
    data, out = str(tmp_path / "data"), tmp_path / "out"
    arguments: dict[str, Any] = {"model_dir": str(tmp_path / "model"), "threshold": flag}
    evaluate(**arguments, data=(data,), output=str(out), report=True)
    explain(ExplainConfig(paths=(data,), output=str(tmp_path / "why"), threads=1, **arguments))
    scores = Scores.from_csv(out / "scores.csv")
    decided = dict(zip(scores.path, scores.score > value, strict=True))
    assert dict(zip(scores.path, scores.predicted == 1, strict=True)) == decided
    results = json.loads((out / "results.json").read_text())
    assert results["decision"]["threshold"] == value
    rates = results["open"]["operating_points"]["decision"]
    assert rates["bpcer"] == np.mean(scores.predicted[scores.label == 0])
    assert rates["apcer_mean"] == 1 - np.mean(scores.predicted[scores.label == 1])
    assert results["open"]["pooled"]["accuracy"] == np.mean(scores.predicted == scores.label)
    page = Page(out / "report.html").data
    wrong = {"false alarm": True, "missed": True, "right": False}
    for index, path in enumerate(page["path"]):
        image = f"{page['root']}/{path}"
        is_wrong = wrong[page["outcomes"][page["outcome"][index]]]
        assert is_wrong == (decided[image] != bool(page["label"][index]))
    again = Detector.from_pretrained(tmp_path / "model")
    again.set_threshold(flag)
    rows = json.loads((tmp_path / "why" / "manifest.json").read_text())["items"]
    for row in rows:
        fake = decided[row["path"]]
        prediction = again.predict(row["path"])
        assert (row["decision"] == "synthetic") == fake == bool(prediction.predicted[0])
        assert row["predicted"] == int(fake)
        cams = np.load(tmp_path / "why" / row["cam"])
        np.testing.assert_allclose(cams, prediction.cams[0].numpy(), rtol=1e-4, atol=1e-5)
        # The CAM that is shown is that of the decision: of class 1 exactly where it says so.
        assert np.array_equal(cams[0], cams[1]) == fake
    assert len(rows) == len(decided) == 16


def test_a_run_alone_is_scored_on_what_it_was_tested_on(own_run: Path) -> None:
    evaluate(run=str(own_run))
    assert names_of(own_run / "evaluation") == ["3.png", "4.png", "6.png"]


def test_the_record_of_a_run_is_loaded_once(
    own_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It was loaded for what to score, what is known and what may be a copy: thousands of rows."""
    loaded: list[Path] = []
    load = Manifest.from_csv

    def loading(path: Path) -> Manifest:
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(Manifest, "from_csv", loading)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    fakes = noise(tmp_path / "fakes", 4)
    evaluate(run=str(own_run), test_data={"new": str(fakes)}, output=str(tmp_path / "out"))
    assert loaded == [own_run / "manifest.csv"]
    bars = re.findall(r"checking files: 100%\D*(\d+)/", capfd.readouterr().err)
    assert bars == ["6", "3"], "what is scored, then what the model knows"


def test_a_run_on_the_demo_set_is_scored_on_its_own_test_images_too(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = Manifest(Manifest.from_csv(own_run / "manifest.csv")[:5])
    monkeypatch.setattr("focus.use.score.demo_manifest", lambda progress: demo)
    write_config(TrainConfig(), own_run / "config.yaml")
    evaluate(run=str(own_run))
    assert names_of(own_run / "evaluation") == ["3.png", "4.png", "5.png", "6.png"]


@pytest.mark.parametrize("by", ["run", "model_dir"])
def test_what_a_model_was_trained_or_chosen_on_is_left_out(
    own_run: Path, by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the data themselves do not say so, as a folder of images does not."""
    noise(tmp_path / "images" / "new", 1)
    where = own_run if by == "run" else own_run / "model"
    evaluate(**{by: str(where)}, data=(str(tmp_path / "images"),), output=str(tmp_path / "out"))
    assert names_of(tmp_path / "out") == ["3.png", "4.png", "5.png", "6.png", "0.png"]
    line = "warning: 3 of 8 images are left out: they, or copies of them, are for training, or what"
    assert line in capsys.readouterr().out


def test_a_picture_of_training_that_is_stored_anew_is_named(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table or folder to evaluate has no splits."""
    noise(tmp_path / "others", 4)
    with Image.open(tmp_path / "images" / "1.png") as image:
        image.save(tmp_path / "others" / "again.png", compress_level=0)
    evaluate(run=str(own_run), data=(str(tmp_path / "others"),), output=str(tmp_path / "out"))
    assert "1 of 5 test images are copies of training images" in capsys.readouterr().out
    assert "again.png" in (tmp_path / "out" / "copies.csv").read_text()


def test_nor_is_an_image_scored_whose_group_the_model_was_trained_on(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another frame of a video, or another picture of a person, is no new image either."""
    record = Manifest.from_csv(own_run / "manifest.csv")
    groups = ("anna", "", "ben", "carl", "", "", "")
    Manifest(replace(s, group=g) for s, g in zip(record, groups, strict=True)).to_csv(
        own_run / "manifest.csv"
    )
    others = noise(tmp_path / "others", 4)
    new = [
        Sample(str(others / f"{number}.png"), number % 2, group=group)
        for number, group in enumerate(("anna", "ben", "carl", ""))
    ]
    Manifest([*record[:1], *new]).to_csv(tmp_path / "new.csv")
    out = tmp_path / "out"
    evaluate(run=str(own_run), data=(str(tmp_path / "new.csv"),), output=str(out))
    assert names_of(out) == ["2.png", "3.png"]
    said = (
        "3 of 5 images are left out: they, or copies of them, are for training, or what the model "
    )
    printed = capsys.readouterr().out
    assert (
        f"{said}was chosen on, 2 of them by their group; if unrelated groups share a name"
        in printed
    )


def test_groups_of_unrelated_data_can_be_left_unread(own_run: Path, tmp_path: Path) -> None:
    """Which the message says, that refuses them otherwise."""
    record = Manifest.from_csv(own_run / "manifest.csv")
    Manifest(replace(s, group="000") for s in record).to_csv(own_run / "manifest.csv")
    noise(tmp_path / "others", 2)
    (tmp_path / "t.csv").write_text(
        "path,label,group\nothers/0.png,real,000\nothers/1.png,fake,000\n"
    )
    data = (str(tmp_path / "t.csv"),)
    with pytest.raises(InputError, match=r"chosen on: give others; if .* --columns group=\.$"):
        evaluate(run=str(own_run), data=data)
    evaluate(run=str(own_run), data=data, columns=("group=",))
    assert names_of(own_run / "evaluation") == ["0.png", "1.png"]


def test_a_model_that_lies_in_no_run_is_said(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was trained on cannot be left out."""
    (own_run / "config.yaml").unlink()
    flags = {"model_dir": str(own_run / "model"), "data": (str(tmp_path / "images"),)}
    people = tmp_path / "human_maps"
    (people / "answers").mkdir(parents=True)
    evaluate(**flags, people=str(people), output=str(tmp_path / "out"))
    assert len(names_of(tmp_path / "out")) == 7
    said = "images it was trained on cannot be left out: give --run, or be sure that these are new."
    printed = capsys.readouterr().out
    assert said in printed
    assert f"None of these images is answered in --people {people}" in printed


def test_images_without_labels_have_scores_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(tmp_path / "images", 3)
    evaluate(model_dir=str(model), data=(str(images),), output=str(tmp_path / "out"))
    assert "No image has a label: scores only, no results." in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"overlays.png", "scores.csv"}


def test_fakes_alone_are_compared_with_the_real_images_of_the_run(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the line at the end of training advises: --run RUN --test-data NAME=PATH."""
    fakes = noise(tmp_path / "fakes", 8)
    flags: dict[str, Any] = {"run": str(own_run), "test_data": {"new": str(fakes)}}
    evaluate(**flags, output=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    new = results["open"]["generators"]["new"]
    assert (new["n_real"], new["n_synthetic"]) == (2, 8)  # 4.png and 6.png
    said = f"note: No real image is given: the 2 that {own_run} was tested on are taken; --test-re"
    assert said in capsys.readouterr().out
    reals = {"mine": str(noise(tmp_path / "reals", 3))}
    evaluate(**flags, test_real=reals, output=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["open"]["generators"]["new"]["n_real"] == 3


def test_fakes_alone_have_no_auc(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"test_data": {"new": str(noise(tmp_path / "images", 2))}}
    evaluate(model_dir=str(model), **arguments, output=str(tmp_path / "out"))
    assert (
        "There are no real images, only synthetic ones: no AUC is defined."
        in capsys.readouterr().out
    )
    with pytest.raises(InputError, match="--robustness and --equalise compare AUCs"):
        evaluate(model_dir=str(model), **arguments, output=str(tmp_path / "two"), robustness=True)
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"run": "nowhere"}, "--run nowhere has no folder 'model'"),
        ({"model_dir": "nowhere"}, "--model-dir nowhere is no folder"),
        ({"run": "RUN/model"}, "is a model's folder, not a run's: give it by --model-dir"),
        ({"run": "RUN", "output": "RUN/model"}, "--output .*whose files would be replaced"),
        ({"run": "OWN", "output": "OWN"}, "--output .*whose files would be replaced.*evaluation"),
        ({"run": "RUN"}, "There are no images to score"),
        ({"run": "RUN", "data": ("TRAIN",)}, "All 2 images of .* are for training, or what the"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    model: Path, own_run: Path, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    noise(tmp_path / "data" / "train" / "A" / "1_fake", 2)
    folders = {"RUN": str(model.parent), "OWN": str(own_run), "TRAIN": str(tmp_path / "data")}

    def real_path(text: str) -> str:
        first, *rest = text.split("/")
        return "/".join([folders.get(first, first), *rest])

    arguments = {
        name: real_path(value) if isinstance(value, str) else tuple(map(real_path, value))
        for name, value in flags.items()
    }
    with pytest.raises(InputError, match=message) as error:
        evaluate(**({"output": str(tmp_path / "out")} | arguments))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_processes_write_what_one_does(model: Path, tmp_path: Path) -> None:
    noise(tmp_path / "data" / "known" / "0_real", 5)
    noise(tmp_path / "data" / "known" / "1_fake", 4)
    data = str(tmp_path / "data")
    out = str(tmp_path / "one")
    evaluate(model_dir=str(model), data=(data,), output=out, robustness=True, faithfulness=True)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    flags = ("--model-dir", model, "--data", data, "--output", tmp_path / "two")
    flags += ("--robustness", "--faithfulness", "--report", "false")
    python(*launch, PROGRAM, *flags, cwd=tmp_path)
    for name in ("scores.csv", "robustness.csv", "faithfulness.csv"):
        one, two = ((tmp_path / n / name).read_text().splitlines()[1:] for n in ("one", "two"))
        for row_of_one, row_of_two in zip(csv.DictReader(one), csv.DictReader(two), strict=True):
            for column, cell in row_of_one.items():
                try:
                    # Other batches, other rounding.
                    assert float(row_of_two[column]) == pytest.approx(
                        float(cell), rel=1e-4, abs=1e-5
                    )
                except ValueError:
                    assert row_of_two[column] == cell, column
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (results["closed"]["pooled"]["n_real"], results["closed"]["pooled"]["n_synthetic"]) == (
        5,
        4,
    )
