"""The manifest's file form and the assignment of splits."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from focus.data.manifest import Manifest, Sample, Split
from focus.data.readers import read_data
from focus.data.splits import assign_splits, check_trainable
from focus.errors import InputError

from ..launching import python
from ..trees import write


def test_round_trip_is_exact(tmp_path: Path) -> None:
    below, outside = tmp_path / "faces", tmp_path.parent / "elsewhere.png"
    samples = [
        Sample(f"{below}/a, b.png", 1, "StyleGAN2", "stylegan", "train", "closed"),
        Sample(f'{below}/say "hi".png', 0, split="validation", group="video, 1"),
        Sample(f"{below}/two\nlines.png", None, map_path=f"{below}/maps/x.png"),
        Sample(f"{below}/carriage\rreturn.png"),
        Sample(str(outside), 1, "ü", mask_path=f"{below}/m.png", box=(0.1 + 0.2, 2.0, 1e-17, -4.5)),
        Sample(f"{below}/not-utf8-\udcff.png", extra={"source": "FFHQ", "age": "30"}),
        Sample(f"{tmp_path}/up.png", test_set="closed_balanced", split="test"),
        Sample(f"{below}/.hidden..png"),
    ]
    path = tmp_path / "faces" / "manifest.csv"
    below.mkdir()
    Manifest(samples).to_csv(path)
    assert list(Manifest.from_csv(path)) == samples


def test_a_file_has_one_name(tmp_path: Path) -> None:
    """So what two rows, tables or roots say of it is compared."""
    write({"set/a.png": "face 1", "a.png": "face 2"}, tmp_path)
    detours = ["a.png", "./a.png", "../set/a.png", ".//a.png", "x/../a.png"]
    cells = [*detours, f"{tmp_path}/no/../a.png"]
    rows = "".join(f"{cell},{cell}\n" for cell in cells)
    (tmp_path / "set/m.csv").write_text(f"# focus-manifest 1\npath,mask_path\n{rows}")
    for path in (tmp_path / "set/m.csv", tmp_path / "set/../set/m.csv"):
        found = Manifest.from_csv(path)
        assert [s.path for s in found] == [f"{tmp_path}/set/a.png"] * 5 + [f"{tmp_path}/a.png"]
        assert [s.mask_path for s in found] == [s.path for s in found]
    (found,) = read_data(tmp_path / "x/../set/a.png", allow_unlabelled=True)
    assert found.path == f"{tmp_path}/set/a.png"


def test_paths_below_the_csv_move_with_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = tmp_path / "old" / "manifest.csv"
    Manifest([Sample(f"{tmp_path}/old/x/1.png"), Sample("/far/2.png")]).to_csv(old)
    new = old.rename(tmp_path / "new" / "manifest.csv")
    assert [s.path for s in Manifest.from_csv(new)] == [f"{tmp_path}/new/x/1.png", "/far/2.png"]


def test_a_million_rows_take_ten_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    """By a tenth of them; a busy machine may take twice the CPU time."""
    table, rows = tmp_path / "table.csv", 100_000
    with table.open("w") as file:
        file.write("# focus-manifest 1\npath,label,generator,split,map_path,group\n")
        for row in range(rows):
            name = f"{row % 100:02}/face-{row:07}.png"
            file.write(f"images/{name},synthetic,StyleGAN2,train,heatmaps/{name},id{row // 5}\n")
    code = (  # not getrusage's memory, which is that of the process that begins this one
        "import sys, time; from pathlib import Path; from focus.data.manifest import Manifest\n"
        "def used():\n"
        "    kilobytes = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]\n"
        "    return time.process_time(), int(kilobytes)\n"
        "before = used(); found = Manifest.from_csv(sys.argv[1]); after = used()\n"
        "print(len(found), after[0] - before[0], after[1] - before[1])"
    )
    read, seconds, kilobytes = map(float, python("-c", code, table).split())
    assert read == rows
    assert seconds <= 2 * 10 * rows / 1e6
    assert 0 < kilobytes <= 1e6 * rows / 1e6


def test_a_hand_written_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "\ufeff# focus-manifest 1\nlabel,path,camera\n\nsynthetic,a.png,\n,b.png,phone\n", "utf-8"
    )
    assert list(Manifest.from_csv(path)) == [
        Sample(f"{tmp_path}/a.png", 1),
        Sample(f"{tmp_path}/b.png", None, extra={"camera": "phone"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# focus-manifest 2\npath\na.png\n", "first line must be '# focus-manifest 1'"),
        ("# focus-manifest 1\nlabel\nreal\n", "line 2: .*'path' among them"),
        ("# focus-manifest 1\npath,path\na,b\n", "line 2: .*none twice"),
        (
            "# focus-manifest 1\npath,label\na.png,real\nb.png,fake\n",
            "line 4: label 'fake' is none",
        ),
        ("# focus-manifest 1\npath,split\n\na.png,dev\n", "line 4: split 'dev' is none of train,"),
        ('# focus-manifest 1\npath,label\n"a\nb",real\nb.png\n', "line 5: 1 columns instead of 2"),
        ("# focus-manifest 1\npath,box\na.png,1 2 3\n", "line 3: box '1 2 3' is not four numbers"),
        ("# focus-manifest 1\npath,label\n,real\n", "line 3: an empty path"),
        ('# focus-manifest 1\npath\na.png\n"b.png\n', "line 4: not a row of a CSV"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Manifest.from_csv(path)


def test_a_column_cannot_have_two_meanings(tmp_path: Path) -> None:
    """A file with a name twice could not be read."""
    manifest = Manifest([Sample("/a.png", extra={"split": "x", "age": "3", "box": "y"})])
    with pytest.raises(ValueError, match=r"^extra columns cannot be called box, split$"):
        manifest.to_csv(tmp_path / "m.csv")
    assert not list(tmp_path.iterdir())


def test_manifests_that_are_joined_name_each_source_once() -> None:
    one, other = Manifest([Sample("/a.png")], "one"), Manifest([Sample("/b.png")], "other")
    joined = one + Manifest([]) + other
    assert [sample.path for sample in joined] == ["/a.png", "/b.png"]
    assert joined.source == "one, other"
    assert (one + one).source == "one"


def test_samples_reach_other_processes_and_hash() -> None:
    sample = Sample("/a.png", 1, extra={"source": "x"})
    assert pickle.loads(pickle.dumps(Manifest([sample])))[0] == sample
    assert len({sample, replace(sample)}) == 1


def faces(n_real: int, n_fake: dict[str, int], split: Split = "") -> list[Sample]:
    reals = [Sample(f"/data/real/{i}.png", 0, split=split) for i in range(n_real)]
    fakes = [
        Sample(f"/data/{g}/{i}.png", 1, g, split=split) for g, n in n_fake.items() for i in range(n)
    ]
    return reals + fakes


def test_splits_are_stratified_and_independent_of_the_order_and_the_folder() -> None:
    samples = faces(100, {"kA": 60, "kB": 20})
    assigned = assign_splits(Manifest(samples), seed=1)
    assert Counter((s.generator, s.split) for s in assigned) == {
        ("", "train"): 70,
        ("", "validation"): 15,
        ("", "test"): 15,
        ("kA", "train"): 42,
        ("kA", "validation"): 9,
        ("kA", "test"): 9,
        ("kB", "train"): 14,
        ("kB", "validation"): 3,
        ("kB", "test"): 3,
    }
    split = {s.path: s.split for s in assigned}
    backwards = assign_splits(Manifest(samples[::-1]), seed=1)
    assert {s.path: s.split for s in backwards} == split
    moved = [replace(s, path=s.path.replace("/data", "/mnt/disk")) for s in samples]
    assert [s.split for s in assign_splits(Manifest(moved), seed=1)] == list(split.values())
    assert {s.path: s.split for s in assign_splits(Manifest(samples), seed=2)} != split
    check_trainable(assigned)


def test_given_splits_are_kept() -> None:
    given = faces(20, {"kA": 20}, "train") + faces(4, {"uB": 4}, "test")
    assigned = assign_splits(Manifest(given), seed=0, validation=0.2)
    assert Counter(s.split for s in assigned) == {"train": 32, "validation": 8, "test": 8}
    assert list(assign_splits(assigned, seed=5)) == list(assigned)
    loose = [*assigned, Sample("/data/more.png", 0)]
    assert assign_splits(Manifest(loose), seed=0)[-1].split == "train"


def test_cuts_never_go_through_a_group_or_one_file() -> None:
    samples = [
        Sample(f"/v/{i}.png", i % 2, "kA" if i % 2 else "", group=f"video {i // 8}")
        for i in range(400)
    ]
    twice = [Sample(f"/v/twice{i % 30}.png", 0) for i in range(60)]
    assigned = assign_splits(Manifest(samples + twice), seed=3)
    for key in ("group", "path"):
        homes: dict[str, set[str]] = {}
        for sample in assigned:
            if getattr(sample, key):
                homes.setdefault(getattr(sample, key), set()).add(sample.split)
        assert all(len(home) == 1 for home in homes.values())
    assert 50 <= len(assigned.split("validation")) <= 72
    check_trainable(assigned)


def test_a_stratum_of_two_gives_one_to_validation_and_keeps_one() -> None:
    for share in (0.01, 0.15, 0.9, 1):
        given = Manifest(faces(2, {"kA": 2}, "train"))
        assigned = assign_splits(given, seed=0, validation=share)
        expected = [(0, "train"), (0, "validation"), (1, "train"), (1, "validation")]
        assert sorted((s.label or 0, s.split) for s in assigned) == expected
    assert not assign_splits(given, seed=0, validation=0).split("validation")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (faces(2, {"a": 2}, "validation"), "The train split of X has 0 real and 0 synthetic"),
        (faces(3, {}, "train"), "The train split of X has 3 real and 0 synthetic"),
        (faces(3, {"a": 2}, "train"), "The validation split of X has 0 real and 0 synthetic"),
        ([*faces(3, {"a": 2}, "train"), Sample("/x", split="train")], "1 of 6 train images"),
        (
            [
                *faces(3, {"a": 2}, "train"),
                *faces(3, {"a": 2}, "validation"),
                Sample("/x", 0, group="v1", split="train"),
                Sample("/y", 0, group="v1", split="test"),
            ],
            "1 groups of X .* first is 'v1' in test and train",
        ),
        (
            [
                *faces(3, {"a": 2}, "train"),
                *faces(2, {"b": 2}, "validation"),
                *faces(3, {"a": 2}, "train"),
            ],
            "2 images of X .* first is '/data/real/0.png' in train and validation",
        ),
    ],
)
def test_untrainable_manifests_are_refused(samples: list[Sample], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_trainable(Manifest(samples, "X"))
