"""``python -m focus.data check``: what it counts, what it writes, how it ends."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from focus.config.train import TrainConfig, resolve
from focus.data.check.command import main
from focus.data.check.sheet import CELLS, GAP, HEAD, LABELS, SIDE
from focus.data.check.survey import look
from focus.data.demo import render_face
from focus.data.images import load_image
from focus.data.manifest import Manifest, Sample, Split
from focus.data.training_set import training_manifest
from focus.errors import InputError

from ...launching import python

CHECKOUT = Path(__file__).parents[3]
COUNTS: dict[Split, int] = {"train": 24, "validation": 10, "test": 10}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces with human maps for training, none of them twice; ``faces.csv`` is their manifest."""
    folder = tmp_path_factory.mktemp("faces")
    samples = []
    for split, n in COUNTS.items():
        for generator in ("", "kA", "kB"):
            for number in range(n if not generator else n // 2):
                stem = f"{split}-{generator or 'real'}-{number}"
                name = "closed" if split == "test" else split
                picture = render_face(name, generator or "real", number)
                Image.fromarray(picture.image).save(folder / f"{stem}.png")
                if split == "train":
                    assert picture.human_map is not None
                    (folder / "maps").mkdir(exist_ok=True)
                    Image.fromarray(picture.human_map).save(folder / "maps" / f"{stem}.png")
                samples.append(
                    Sample(
                        str(folder / f"{stem}.png"),
                        label=int(bool(generator)),
                        generator=generator,
                        split=split,
                        map_path=str(folder / "maps" / f"{stem}.png") if split == "train" else None,
                    )
                )
    Manifest(samples).to_csv(folder / "faces.csv")
    return folder


@pytest.fixture
def own_set(data_set: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(data_set, tmp_path / "faces")


def check(*words: str | Path, output: Path) -> dict[str, Any]:
    """check.json; "exit" is the exit code."""
    code = 0
    try:
        main([*map(str, words), "--output", str(output)])
    except SystemExit as end:
        code = int(end.code or 0)
    found: dict[str, Any] = json.loads((output / "check.json").read_text(encoding="utf-8"))
    return {**found, "exit": code}


def program(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "focus.data", *map(str, words)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rewrite(csv: Path, change: Any) -> None:
    """The manifest with ``change`` of each sample; None leaves it out."""
    changed = (change(sample) for sample in Manifest.from_csv(csv))
    Manifest(sample for sample in changed if sample is not None).to_csv(csv)


def test_the_report_of_sound_data(
    data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(data_set / "faces.csv", output=tmp_path / "out")
    assert found["exit"] == 0
    assert found["trainable"] is True
    assert found["obstacle"] is None
    assert found["n_images"] == 88
    rows = [
        (kind["split"], kind["label"], kind["generator"], kind["images"], kind["with_map"])
        for kind in found["kinds"]
    ]
    assert rows == [
        ("train", "real", "", 24, 24),
        ("train", "synthetic", "kA", 12, 12),
        ("train", "synthetic", "kB", 12, 12),
        ("validation", "real", "", 10, 0),
        ("validation", "synthetic", "kA", 5, 0),
        ("validation", "synthetic", "kB", 5, 0),
        ("test", "real", "", 10, 0),
        ("test", "synthetic", "kA", 5, 0),
        ("test", "synthetic", "kB", 5, 0),
    ]
    assert found["train_share_real"] == 0.5
    assert (found["sizes"], found["formats"], found["modes"]) == (
        {"64x64": 88},
        {"PNG": 88},
        {"RGB": 88},
    )
    assert found["maps"] == {
        "maps": 48,
        "images_without": 40,
        **dict.fromkeys(("unreadable", "blank", "inverted", "of_another_size", "unmatched"), 0),
    }
    assert found["bad_files"] == []
    assert found["leaks"]["images"] == 0
    low, high = found["shortcuts"]["metadata"]["interval"]
    assert 0 <= low < found["shortcuts"]["metadata"]["auc"] < high <= 1

    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")
    assert text in printed
    assert "train       synthetic  kB             12        12  64x64  PNG     RGB\n" in text
    assert text.endswith("training would start\n")
    assert (tmp_path / "out" / "leaks.csv").read_bytes().count(b"\r\n") == 2


def test_the_contact_sheet_tells_generators_of_alike_names_apart(
    own_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, at, text, *a, **k: said.append(text))
    table = own_set / "faces.csv"
    text = table.read_text().replace(",kA,", ",stable_diffusion_v_1_4,")
    table.write_text(text.replace(",kB,", ",stable_diffusion_v_1_5,"))
    check(table, output=tmp_path / "out")
    for name in ("stable_dif...v_1_4", "stable_dif...v_1_5"):
        assert said.count(name) == 3, "in each split"


def test_the_table_tells_generators_of_alike_names_apart_in_one_line_each(
    own_set: Path, tmp_path: Path
) -> None:
    named = {n: f"a generator of the long family\tnumber {n}" for n in ("kA", "kB")}
    rewrite(
        own_set / "faces.csv",
        lambda s: replace(s, generator=named.get(s.generator, s.generator)),
    )
    check(own_set / "faces.csv", output=tmp_path / "out")
    text = (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("train ", "test "))]
    names = [line[line.index("synthetic") + 11 :][:30] for line in rows if "synthetic" in line]
    assert [name.split("  ")[0][-2:] for name in names] == ["kA", "kB"] * 2
    assert "\t" not in "".join(rows)


def test_the_contact_sheet_shows_faces_and_maps(data_set: Path, tmp_path: Path) -> None:
    check(data_set / "faces.csv", output=tmp_path / "out")
    with Image.open(tmp_path / "out" / "contact_sheet.png") as image:
        assert image.size == (LABELS + CELLS * (SIDE + GAP), HEAD + 9 * (SIDE + GAP))
        sheet = np.asarray(image.convert("RGB")).astype(int)
    step = SIDE + GAP
    cells = {
        (line, cell): sheet[HEAD + line * step :, LABELS + cell * step :][:SIDE, :SIDE]
        for line in range(9)
        for cell in range(CELLS)
    }
    for (line, cell), here in cells.items():
        # Validation and test have five fakes of a generator.
        filled = cell < (5 if line in (4, 5, 7, 8) else CELLS)
        assert (here.std() > 5) == filled, (line, cell)

    # In the rows of training every other cell is the map over its face, red where people looked;
    # four of twelve fakes are shown, at even distances.
    for cell, number in enumerate((0, 3, 6, 9)):
        with Image.open(data_set / "maps" / f"train-kA-{number}.png") as image:
            looked_at = np.asarray(image.resize((SIDE, SIDE)))
        # The two stand closer than cells do.
        shift = GAP - 2
        face, looked_at = cells[1, 2 * cell][:, shift:], looked_at[:, shift:]
        redder = cells[1, 2 * cell + 1][:, : SIDE - shift, 0] - face[..., 0]
        assert redder[looked_at > 200].mean() > redder[looked_at < 25].mean() + 40


def without_real_validation(sample: Sample) -> Sample | None:
    return None if sample.split == "validation" and sample.label == 0 else sample


def one_class(sample: Sample) -> Sample | None:
    return sample if sample.label else None


def one_group(sample: Sample) -> Sample:
    return Sample(sample.path, sample.label, sample.generator, split=sample.split, group="video")


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_real_validation, one_class, one_group])
def test_what_stops_training_is_said_in_its_words(
    change: Any, own_set: Path, tmp_path: Path
) -> None:
    rewrite(own_set / "faces.csv", change)
    with pytest.raises(InputError) as error:
        training_manifest(resolve(TrainConfig(data=(str(own_set / "faces.csv"),))), progress=False)
    found = check(own_set / "faces.csv", output=tmp_path / "out")
    assert found["exit"] == 1
    assert found["trainable"] is False
    assert found["obstacle"] == str(error.value)
    assert found["n_images"] > 0
    assert str(error.value) in (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")


def test_data_that_cannot_be_read_stop_training(own_set: Path, tmp_path: Path) -> None:
    with (own_set / "faces.csv").open("a") as file:
        file.write("faces.png,Reall,,,train,,,,,\r\n")
    found = check(own_set / "faces.csv", output=tmp_path / "out")
    assert (found["exit"], found["n_images"]) == (1, 0)
    assert "line 91" in found["obstacle"]
    assert not (tmp_path / "out" / "contact_sheet.png").exists()


@pytest.mark.slow
def test_bad_files_are_listed_and_stop_training_only_if_many(own_set: Path, tmp_path: Path) -> None:
    real = own_set / "train-real-0.png"
    real.write_bytes(real.read_bytes()[:900])
    (own_set / "maps" / "train-real-1.png").write_bytes(b"")
    for max_bad, code in (("0.05", 0), ("0", 1)):
        found = check(own_set / "faces.csv", "--max-bad", max_bad, output=tmp_path / "out")
        assert found["exit"] == code
        assert {(Path(f["path"]).name, f["role"]) for f in found["bad_files"]} == {
            ("train-real-0.png", "image"),
            ("train-real-1.png", "map"),
        }
        assert found["kinds"][0]["unreadable"] == 1
        assert found["maps"]["unreadable"] == 1
    assert "train-real-0.png" in found["obstacle"]
    for path in own_set.glob("*.png"):
        path.write_bytes(b"")
    found = check(own_set / "faces.csv", output=tmp_path / "out2")
    assert (found["exit"], len(found["bad_files"])) == (1, 88)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_bad_and_not_waited_for(own_set: Path, tmp_path: Path) -> None:
    odd = [own_set / f"test-real-{number}.png" for number in range(4)]
    for path in odd:
        path.unlink()
    os.mkfifo(odd[0])
    odd[1].symlink_to("nowhere")
    odd[2].symlink_to(odd[2].name)
    odd[3].mkdir()
    shutil.copy(own_set / "test-kA-0.png", own_set / "train-kA-0.png")
    found = check(
        own_set / "faces.csv", "--drop-leaks", "--max-bad", "0.05", output=tmp_path / "out"
    )
    reasons = {Path(file["path"]).name: file["reason"] for file in found["bad_files"]}
    assert list(reasons) == [path.name for path in odd]
    assert reasons[odd[0].name] == "neither a file nor a folder"
    assert reasons[odd[1].name] == "No such file or directory"

    # The manifest without leaks holds none of them: training takes it as it is.
    assert found["exit"] == 0
    assert found["without_leaks"]["n_images"] == 88 - 4 - 1
    written = Manifest.from_csv(tmp_path / "out" / "without_leaks.csv")
    assert all(Path(sample.path).is_file() for sample in written)
    config = TrainConfig(data=(found["without_leaks"]["path"],), max_bad=0)
    assert len(training_manifest(resolve(config), progress=False)) == 83


def test_what_contradicts_itself_and_faint_masks_are_said(own_set: Path, tmp_path: Path) -> None:
    table = own_set / "faces.csv"
    real, fake = (
        next(s.path for s in Manifest.from_csv(table) if (s.split, s.label) == ("train", label))
        for label in (0, 1)
    )
    shutil.copy(real, fake)
    Image.new("L", (64, 64), 1).save(own_set / "faint.png")
    mask = str(own_set / "faint.png")
    rewrite(table, lambda s: replace(s, mask_path=mask) if s.path == fake else s)
    found = check(table, output=tmp_path / "out")
    assert found["contradictory"] == [[real, fake]]
    assert found["masks"] == {"masks": 1, "faint": 1}
    text = (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")
    assert f"the same file as real and as synthetic: 1\n  {real!r}, {fake!r}\n" in text
    assert (
        f"artefact masks: 1 are nowhere half white and count as empty, the first is {mask!r}"
        in text
    )


def test_odd_maps_are_counted(own_set: Path, tmp_path: Path) -> None:
    maps = own_set / "maps"
    Image.new("L", (64, 64)).save(maps / "train-real-0.png")
    with Image.open(maps / "train-real-1.png") as image:
        image.point(lambda value: 255 - value).save(maps / "train-real-1.png")
    with Image.open(maps / "train-real-2.png") as image:
        image.resize((32, 32)).save(maps / "train-real-2.png")
    shutil.copy(maps / "train-real-3.png", maps / "nobody.png")
    found = check(own_set / "faces.csv", "--heatmaps", maps, output=tmp_path / "out")
    assert found["exit"] == 0
    assert found["maps"] == {
        "maps": 48,
        "images_without": 40,
        "unreadable": 0,
        "blank": 1,
        "inverted": 1,
        "of_another_size": 1,
        "unmatched": 1,
    }


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_sizes_are_those_of_the_upright_image(tmp_path: Path, extension: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (66, 65, 3), dtype=np.uint8)
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / f"{orientation}.{extension}", exif=exif)
        found = look(str(tmp_path / f"{orientation}.{extension}"))
        expected = (66, 65) if orientation > 4 else (65, 66)
        assert (found.error, found.width, found.height) == ("", *expected)
        assert load_image(tmp_path / f"{orientation}.{extension}").size == expected


def test_the_map_of_a_turned_image_has_its_size(own_set: Path, tmp_path: Path) -> None:
    """A photograph is stored on its side, its map was drawn on it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(render_face("train", "real", 0).image).resize((48, 64))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save(own_set / "photo.jpg", exif=exif)
    Image.linear_gradient("L").resize((48, 64)).save(own_set / "maps" / "photo.png")
    with (own_set / "faces.csv").open("a") as file:
        file.write("photo.jpg,real,,,train,,maps/photo.png,,,\r\n")
    found = check(own_set / "faces.csv", output=tmp_path / "out")
    assert found["sizes"] == {"64x64": 88, "48x64": 1}
    assert found["maps"]["of_another_size"] == 0


def test_maps_of_nobody_are_counted_beside_the_data_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("table", "tree/kA", "elsewhere"):
        for label in ("0_real", "1_fake"):
            for number in range(3):
                path = tmp_path / name / label / f"{label}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)

    def heatmaps(folder: str, *names: str) -> None:
        (tmp_path / folder / "heatmaps").mkdir()
        for name in names:
            Image.linear_gradient("L").save(tmp_path / folder / "heatmaps" / name)

    heatmaps("table", "0_real0.png", "0_real1_1.png", "0_real1_2.png", "nobody.png")
    heatmaps("tree", "1_fake0.png", "1_fake9.png", "wrong name.png")
    heatmaps("elsewhere", "no.png")
    rows = [
        f"train,{('Real', 'Synthetic')[i]},/{n}/{n}0.png"
        for i, n in enumerate(("0_real", "1_fake"))
    ]
    (tmp_path / "faces.csv").write_text("\n".join(rows))

    def unmatched(*words: str) -> int:
        found: int = check(*words, output=tmp_path / "out")["maps"]["unmatched"]
        return found

    tree, table = f"{tmp_path}/tree", f"{tmp_path}/faces.csv"
    assert unmatched(tree) == 2
    assert unmatched(table, f"--data-root={tmp_path}/table") == 3
    assert unmatched(f"{tmp_path}/table", f"--test-data=kA={tree}") == 3
    # Those that are given count, and not those beside the data.
    assert unmatched(tree, f"--heatmaps={tmp_path}/table/heatmaps") == 1


@pytest.mark.slow
def test_leaks_are_dropped_from_the_manifest_that_train_py_takes(
    own_set: Path, tmp_path: Path
) -> None:
    with Image.open(own_set / "test-real-0.png") as image:
        image.save(own_set / "train-real-0.png", optimize=True)  # other bytes
    shutil.copy(own_set / "test-kA-0.png", own_set / "validation-kA-0.png")
    manifest = Manifest.from_csv(own_set / "faces.csv")
    # The same file in two splits is what train.py refuses by itself.
    words = (own_set / "faces.csv", f"--test-data=kB={own_set / 'train-kB-0.png'}")

    found = check(*words, output=tmp_path / "out")
    assert found["exit"] == 1
    assert "more than one split" in found["obstacle"]
    assert found["leaks"] == {
        "images": 3,
        "same_file": 2,
        "same_picture": 1,
        "between": {"train-test": 2, "validation-test": 1},
    }
    assert not (tmp_path / "out" / "without_leaks.csv").exists()

    found = check(*words, "--drop-leaks", output=tmp_path / "dropped")
    assert found["exit"] == 0
    assert found["trainable"] is False
    written = tmp_path / "dropped" / "without_leaks.csv"
    assert found["without_leaks"] == {
        "path": str(written),
        "n_images": 86,
        "trainable": True,
        "obstacle": None,
    }
    advice = f"86 images, it would start: give train.py --data {written} instead of the data"
    assert advice in (tmp_path / "dropped" / "check.txt").read_text()
    taken = training_manifest(resolve(TrainConfig(data=(str(written),))), progress=False)
    gone = {"train-real-0.png", "validation-kA-0.png", "train-kB-0.png"}
    assert list(taken)[:-1] == [s for s in manifest if Path(s.path).name not in gone]
    assert taken[-1] == Sample(str(own_set / "train-kB-0.png"), 1, "kB", split="test")


def test_test_sets_apart_take_part(own_set: Path, tmp_path: Path) -> None:
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for number in range(6):
        image = Image.fromarray(render_face("open", "uMelt", number).image)
        image.save(fakes / f"{number}.png")
    with Image.open(own_set / "train-kA-3.png") as image:
        image.save(fakes / "leak.jpg", quality=60)
    found = check(
        own_set / "faces.csv", "--drop-leaks", f"--test-data=uMelt={fakes}", output=tmp_path / "out"
    )
    assert ("test", "uMelt", 7) in [
        (kind["split"], kind["generator"], kind["images"]) for kind in found["kinds"]
    ]
    assert found["leaks"]["between"] == {"train-test": 1}
    taken = training_manifest(
        resolve(TrainConfig(data=(str(tmp_path / "out" / "without_leaks.csv"),))), progress=False
    )
    assert sum(sample.generator == "uMelt" for sample in taken) == 7
    assert not any(sample.path.endswith("train-kA-3.png") for sample in taken)


def test_any_file_name_and_generator(own_set: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"line\nbreak \xff.png")
    (own_set / "train-kA-0.png").rename(own_set / odd)
    (own_set / "train-kA-1.png").write_bytes(b"")

    def renamed(sample: Sample) -> Sample:
        path = sample.path.replace("train-kA-0.png", odd)
        generator = "$x_{\n" if sample.generator == "kA" else sample.generator
        return Sample(path, sample.label, generator, split=sample.split)

    rewrite(own_set / "faces.csv", renamed)
    shutil.copy(own_set / odd, own_set / "test-kB-0.png")
    found = check(own_set / "faces.csv", "--max-bad", "0.1", "--drop-leaks", output=tmp_path / "o")
    assert found["exit"] == 0
    assert found["leaks"]["images"] == 1
    text = (tmp_path / "o" / "check.txt").read_text(encoding="utf-8")
    assert r"line\nbreak" in text


def test_a_manifest_without_leaks_that_cannot_train_is_not_recommended(
    own_set: Path, tmp_path: Path
) -> None:
    rewrite(own_set / "faces.csv", one_class)
    found = check(own_set / "faces.csv", "--drop-leaks", output=tmp_path / "out")
    assert found["without_leaks"]["trainable"] is False
    last = (tmp_path / "out" / "check.txt").read_text().splitlines()[-1]
    assert last.endswith("it would not start: " + found["without_leaks"]["obstacle"])


@pytest.mark.slow
def test_the_exit_code_of_the_program(own_set: Path, tmp_path: Path) -> None:
    sound = program("check", own_set / "faces.csv", "--output", tmp_path / "sound")
    assert (sound.returncode, "training would start" in sound.stdout) == (0, True), sound.stderr
    assert (tmp_path / "sound" / "contact_sheet.png").exists()
    rewrite(own_set / "faces.csv", one_class)
    spoilt = program("check", own_set / "faces.csv", "--output", tmp_path / "spoilt")
    assert (spoilt.returncode, spoilt.stderr.count("Traceback")) == (1, 0)
    assert "training would not start: The train split of" in spoilt.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check"], "python -m focus.data check needs the PATH of a CSV or a folder"),
        (["check", "data", "--heatmps", "x"], "There is no flag --heatmps (did you mean --heatm"),
        (["chekc"], "There is no command 'chekc' (did you mean check?)"),
    ],
)
def test_a_command_that_cannot_be_understood_is_one_line(words: list[str], said: str) -> None:
    done = program(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python -m focus.data: error: {said}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_debug_shows_the_traceback_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = program("demo", tmp_path / "file", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("python -m focus.data: error: The demo set can")


def test_help_loads_no_torch() -> None:
    done = program("check", "--help")
    assert done.returncode == 0
    assert "--drop-leaks" in done.stdout
    code = (
        "import sys\nfrom focus.data.check import main\n"
        "try: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    assert python("-c", code, cwd=CHECKOUT).endswith("\nFalse\n")
    assert "usage: python -m focus.data COMMAND" in program("--help").stdout
