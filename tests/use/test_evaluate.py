"""What evaluate.py does: results, files, screen, bad input, several processes."""

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

from focus.config.train import EvaluateConfig, TrainConfig, write_config
from focus.data.known_images import with_content_hashes
from focus.data.manifest import Manifest, Sample, Split
from focus.errors import InputError
from focus.evaluation.result_table import format_table
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.model.operating_points import choose
from focus.use import evaluate as evaluation

from ..launching import python, run

PROGRAM = Path(__file__).parents[2] / "evaluate.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector, in a run folder that has data of its own."""
    run = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    Detector(training_generators=("known",)).save_pretrained(run / "model")
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
    evaluation.evaluate(EvaluateConfig(**flags))


@pytest.mark.slow
def test_evaluate_writes_what_it_prints(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise(tmp_path / "known" / "0_real", 3)
    noise(tmp_path / "known" / "1_fake", 4)
    out = tmp_path / "out"
    evaluate(
        run=str(model.parent),
        data=(str(tmp_path),),
        test_data={"new": str(noise(tmp_path.with_name("fakes"), 5))},
        test_real={"apart": str(noise(tmp_path.with_name("reals"), 6))},
        output=str(out),
        report=True,
    )
    results = json.loads((out / "results.json").read_text())
    assert (results["closed"]["pooled"]["n_real"], results["closed"]["pooled"]["n_fake"]) == (3, 4)
    new = results["open"]["generators"]["new"]
    assert (new["n_real"], new["n_fake"]) == (6, 5)
    scores = Scores.from_csv(out / "scores.csv")
    assert len(scores) == 18
    expected = roc_auc_score(
        scores.label[scores.generator == "known"], scores.score[scores.generator == "known"]
    )
    assert results["closed"]["pooled"]["auc"] == pytest.approx(expected)
    with Image.open(out / "overlays.png") as sheet:
        assert sheet.format == "PNG"
    printed = capsys.readouterr().out
    assert format_table({"first": results}) in printed
    for name in ("results.json", "scores.csv", "overlays.png", "report.html"):
        assert f"written: {out / name}" in printed
    # The report is the last, and of these scores: without one there is none.
    assert printed.splitlines()[-1] == f"written: {out / 'report.html'}"
    assert f"{results['open']['mean']['auc']:.3f}" in (out / "report.html").read_text()
    evaluate(run=str(model.parent), data=(str(tmp_path),), output=str(out))
    assert not (out / "report.html").exists()
    assert not (out / "figures").exists()


def test_a_calibration_against_the_scores_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Detector()
    detector.points = choose(np.linspace(0.5, 0.9, 40), np.full(20, 0.45))
    detector.save_pretrained(tmp_path / "model")
    data = noise(tmp_path / "data" / "0_real", 2).parent
    noise(data / "1_fake", 2)
    out = str(tmp_path / "out")
    evaluate(model_dir=str(tmp_path / "model"), data=(str(data),), output=out)
    assert f"\nwarning: {detector.points.warning()}\n" in capsys.readouterr().out
    assert (
        "balanced"
        not in json.loads((tmp_path / "out" / "results.json").read_text())["open"][
            "operating_points"
        ]
    )


def test_evaluate_marks_generators_and_warns_of_those_that_training_knew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's folder alone says what it was trained on, and of which family that is."""
    torch.manual_seed(0)
    detector = Detector(training_generators=("SG2", "inhouse-1"))
    families = {"SG2": "stylegan", "inhouse-1": "inhouse"}
    detector.config = replace(detector.config, training_families=families)
    detector.save_pretrained(tmp_path / "model")
    rows = [
        "reals/0.png,real,,,",
        "fakes/0.png,synthetic,stylegan2,,open",
        "fakes/1.png,synthetic,StyleGAN2-ADA,,",
        "fakes/2.png,synthetic,inhouse-2,In-House,",
        "fakes/3.png,synthetic,BigGAN,,",
    ]
    noise(tmp_path / "reals", 1)
    noise(tmp_path / "fakes", 4)
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "# focus-manifest 1\npath,label,generator,family,test_set\n" + "\n".join(rows)
    )
    out = tmp_path / "out"
    evaluate(model_dir=str(tmp_path / "model"), data=(str(manifest),), output=str(out))
    results = json.loads((out / "results.json").read_text())
    assert results["training_families"] == families
    assert {n: g["relation"] for n, g in results["open"]["generators"].items()} == {
        "stylegan2": "closed",
        "StyleGAN2-ADA": "near",
        "inhouse-2": "near",
        "BigGAN": "far",
    }
    printed = capsys.readouterr().out.splitlines()
    assert "Tested as unknown, though training knew it: stylegan2 (as SG2)." in printed
    near = "StyleGAN2-ADA (stylegan); inhouse-2 (In-House)"
    assert f"Tested as unknown, though training knew its family: {near}." in printed
    assert any(line.startswith("open-set AUC, StyleGAN2-ADA (near) ") for line in printed)
    assert any(line.startswith("open-set AUC, BigGAN (far) ") for line in printed)


def test_the_output_goes_into_the_run_or_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = (str(noise(tmp_path / "images", 2)),)
    monkeypatch.chdir(tmp_path)
    evaluate(model_dir=str(model), data=images)
    assert (tmp_path / "evaluation" / "scores.csv").exists()
    assert not (model.parent / "evaluation").exists()
    evaluate(run=str(model.parent), data=images)
    assert (model.parent / "evaluation" / "scores.csv").exists()


SPLITS: tuple[Split, ...] = ("train", "train", "validation", "test", "test", "", "test")


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


def test_a_run_alone_is_scored_on_what_it_was_tested_on(own_run: Path) -> None:
    evaluate(run=str(own_run))
    assert names_of(own_run / "evaluation") == ["3.png", "4.png", "6.png"]


@pytest.mark.parametrize("by", ["run", "model_dir"])
def test_what_a_model_was_trained_or_chosen_on_is_left_out(
    own_run: Path, by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the data themselves do not say so, as a folder of images does not."""
    noise(tmp_path / "images" / "new", 1)
    where = own_run if by == "run" else own_run / "model"
    evaluate(**{by: str(where)}, data=(str(tmp_path / "images"),), output=str(tmp_path / "out"))
    assert names_of(tmp_path / "out") == ["3.png", "4.png", "5.png", "6.png", "0.png"]
    line = "3 of 8 images are left out: they are for training, or what the model was chosen on."
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("by", [{"run": "run"}, {"model_dir": "run/model"}])
def test_the_results_of_a_run_are_not_replaced(
    own_run: Path, by: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (own_run / "results.json").write_text("of training")
    with pytest.raises(InputError, match=r"--output run is a run's own folder.*as run/evaluation"):
        evaluate(**by, output="run")
    assert (own_run / "results.json").read_text() == "of training"


@pytest.mark.slow
def test_what_goes_of_an_earlier_evaluation_is_said(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(run=str(own_run), output=str(out), robustness=True)
    assert "replaced" not in capsys.readouterr().out
    evaluate(run=str(own_run), output=str(out))
    files = "results.json, scores.csv, overlays.png, robustness.csv, robustness.png"
    assert f"replaced or removed in {out}: {files}\n" in capsys.readouterr().out
    assert not (out / "robustness.csv").exists()


def test_a_test_set_that_lost_all_its_images_is_named(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "images/1.png,fake,A\nimages/3.png,fake,B\nimages/2.png,real,\nimages/4.png,real,\n"
    (tmp_path / "t.csv").write_text(f"path,label,generator\n{rows}")
    evaluate(run=str(own_run), data=(str(tmp_path / "t.csv"),))
    said = "warning: all images of these are left out, give others: synthetic of A\n"
    assert said in capsys.readouterr().out


def test_nor_do_links_and_short_names_hide_it(
    own_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "images")
    shutil.move(tmp_path / "images" / "4.png", noise(tmp_path / "new" / "1_fake", 1) / "4.png")
    monkeypatch.chdir(own_run / "model")
    data = (str(tmp_path / "link"), str(tmp_path / "new"))
    out = tmp_path / "out"
    evaluate(model_dir=".", data=data, output=str(out), report=True)
    assert names_of(out) == ["3.png", "5.png", "6.png", "0.png", "4.png"]
    # The report, and the table, call it by its run.
    assert "<title>run" in (out / "report.html").read_text()
    assert "AUC" in (printed := capsys.readouterr().out)
    assert re.search(r"^ +run$", printed, re.MULTILINE)


@pytest.mark.parametrize("how", ["moved", "linked"])
def test_nor_does_another_place(
    own_run: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"new/{n}.png,{('real', 'fake')[n % 2]}\n" for n in range(len(SPLITS)))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    record = Manifest.from_csv(own_run / "manifest.csv")
    with_content_hashes(record, progress=False).to_csv(own_run / "manifest.csv")
    images, new = tmp_path / "images", tmp_path / "new"
    if how == "moved":
        shutil.move(images, new)
    else:
        new.mkdir()
        for path in images.iterdir():
            (new / path.name).symlink_to(path)
    out = tmp_path / "out"
    evaluate(run=str(own_run), data=(str(tmp_path / "t.csv"),), output=str(out))
    assert names_of(out) == ["3.png", "4.png", "5.png", "6.png"]
    printed = capsys.readouterr().out
    assert "3 of 7 images are left out: they are for training, or what" in printed


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
    said = "3 of 5 images are left out: they are for training, or what the model was chosen on, "
    printed = capsys.readouterr().out
    assert f"{said}2 of them by their group.\n" in printed
    assert "groups of the same names, rename those of one, or, if none of" in printed


def test_groups_of_unrelated_data_can_be_left_unread(own_run: Path, tmp_path: Path) -> None:
    """Which the message says, that refuses them otherwise."""
    record = Manifest.from_csv(own_run / "manifest.csv")
    Manifest(replace(s, group="000") for s in record).to_csv(own_run / "manifest.csv")
    noise(tmp_path / "others", 2)
    (tmp_path / "t.csv").write_text(
        "path,label,group\nothers/0.png,real,000\nothers/1.png,fake,000\n"
    )
    data = (str(tmp_path / "t.csv"),)
    with pytest.raises(InputError, match=r"chosen on: give others; where .* --columns group=\.$"):
        evaluate(run=str(own_run), data=data)
    evaluate(run=str(own_run), data=data, columns="group=")
    assert names_of(own_run / "evaluation") == ["0.png", "1.png"]


def test_a_manifest_beside_a_model_that_is_of_no_run_leaves_nothing_out(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which a line says."""
    line = (
        "The model lies in no run folder (with config.yaml and manifest.csv), so that images "
        "it was trained on cannot be left out: give --run, or be sure that these are new.\n"
    )
    flags = {"model_dir": str(own_run / "model"), "data": (str(tmp_path / "images"),)}
    evaluate(**flags, output=str(tmp_path / "known"))
    assert line not in capsys.readouterr().out
    (own_run / "config.yaml").unlink()
    evaluate(**flags, output=str(tmp_path / "out"))
    assert len(names_of(tmp_path / "out")) == 7
    assert capsys.readouterr().out.count(line) == 1
    evaluate(run=str(own_run), data=flags["data"], output=str(tmp_path / "lost"))
    said = f"warning: --run {own_run} lacks config.yaml or manifest.csv, so that images it was"
    assert said in (out := capsys.readouterr().out)
    assert "left out: put it back, or be sure that these are new." in out


def test_a_run_on_the_demo_set_is_scored_on_its_own_test_images_too(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Manifest.from_csv(own_run / "manifest.csv")
    demo = record[:5]
    monkeypatch.setattr(evaluation, "demo_manifest", lambda progress: demo)
    write_config(TrainConfig(), own_run / "config.yaml")
    evaluate(run=str(own_run))
    assert names_of(own_run / "evaluation") == ["3.png", "4.png", "5.png", "6.png"]


def test_evaluate_without_labels_gives_scores_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(tmp_path / "images", 3)
    evaluate(model_dir=str(model), data=(str(images),), output=str(tmp_path / "out"))
    assert "No image has a label: scores only, no results." in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".lock", "overlays.png", "scores.csv"}


def test_evaluate_says_that_one_class_has_no_auc(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(tmp_path / "images", 2)
    evaluate(model_dir=str(model), test_data={"new": str(images)}, output=str(tmp_path / "out"))
    assert "There are no real images, only fake ones: no AUC is defined." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"run": "nowhere"}, "--run nowhere is no folder"),
        ({"model_dir": "nowhere"}, "--model-dir nowhere is no folder"),
        ({"run": "RUN/model"}, "is a model's folder, not a run's: give it by --model-dir"),
        ({"run": "RUN/.."}, "has no folder 'model'"),
        ({"run": "RUN", "output": "RUN/model"}, "--output .* is a model's own folder, whose files"),
        ({"run": "RUN"}, "There are no images to score"),
        ({"model_dir": "RUN/model"}, "There are no images to score"),
        ({"model_dir": "RUN", "data": ("x",)}, "holds no detector"),
        ({"run": "RUN", "data": ("nowhere",)}, "There is no file or folder"),
        ({"run": "RUN", "output": "RUN/config.yaml"}, "is a file: give a folder"),
        ({"run": "RUN", "data": ("TRAIN",)}, "All 2 images of .* are for training, or what the"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    model: Path, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    noise(tmp_path / "data" / "train" / "A" / "1_fake", 2)
    for name, value in flags.items():
        if isinstance(value, str):
            flags[name] = value.replace("RUN", str(model.parent))
        elif value == ("TRAIN",):
            flags[name] = (str(tmp_path / "data"),)
    with pytest.raises(InputError, match=message) as error:
        evaluate(**({"output": str(tmp_path / "out")} | flags))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_processes_write_what_one_does(model: Path, tmp_path: Path) -> None:
    noise(tmp_path / "data" / "known" / "0_real", 5)
    noise(tmp_path / "data" / "known" / "1_fake", 4)
    data = str(tmp_path / "data")
    evaluate(model_dir=str(model), data=(data,), output=str(tmp_path / "one"))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    flags = ("--model-dir", model, "--data", data, "--output", tmp_path / "two")
    python(*launch, PROGRAM, *flags, cwd=tmp_path)
    one, two = (Scores.from_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    assert one.path.tolist() == two.path.tolist()
    # Other batches, other rounding.
    np.testing.assert_allclose(one.score, two.score, rtol=1e-5)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (results["closed"]["pooled"]["n_real"], results["closed"]["pooled"]["n_fake"]) == (5, 4)


def test_the_program_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    done = run(PROGRAM, "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "evaluate.py: error: Give one of --run and --model-dir, got neither."
    ]


def test_help_is_quick_because_it_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['evaluate.py', '--help']\n"
        f"try:\n    runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    said = python("-c", code, cwd=tmp_path)
    assert "--model-dir DIR" in said
    assert said.endswith("[]\n")
