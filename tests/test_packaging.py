"""Wheel and sdist: what they hold; the wheel lives beside Hugging Face's package ``kernels``."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .launching import CHECKOUT, python

# Their `kernels` owns the import name; transformers is what most users of it have beside it.
NEIGHBOURS = ("kernels", "transformers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy of the tree: nothing left by an earlier build gets into it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tree)
    for name in ("focus", "kernels"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    python("-m", "build", "--wheel", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_focus_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"focus", info}
    assert f"{info}/licenses/LICENSE" in names

    # Each file of the two folders is in it, so no package and no data file was forgotten.
    sources = {
        f"{package}/{file.relative_to(CHECKOUT / folder).as_posix()}"
        for folder, package in (("focus", "focus"), ("kernels", "focus/kernels"))
        for file in (CHECKOUT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if name.startswith("focus/")} == sources
    assert {"focus/py.typed", "focus/kernels/__init__.py"} <= names


@pytest.mark.slow
def test_the_sdist_holds_what_git_tracks_and_nothing_else(tmp_path: Path) -> None:
    """Its README is about the programs, and its tests are to run in it."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("no git repository: it is not known which files are tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    tracked = {name for name in listed.stdout.split("\0") if (CHECKOUT / name).is_file()}
    tree = tmp_path / "tree"
    left_by_work = (
        *(
            "runs/a/config.yaml",
            "focus/__pycache__/cli.pyc",
            "build/lib/focus/config/command_line.py",
        ),
        *("bench/.benchmarks/Linux/0001.json", "docs/.DS_Store"),
        *("tests/kernels/.pytest_cache/v/cache/lastfailed", "focus/.mypy_cache/3.11/focus.json"),
    )
    for name in (*tracked, *left_by_work):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
        if name in tracked:
            shutil.copy(CHECKOUT / name, tree / name)
    python("-m", "build", "--sdist", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    assert {n for n in names - made if not n.startswith("focus_faces.egg-info/")} == {
        name for name in tracked if not name.startswith((".ci/", ".gitignore"))
    }


@pytest.mark.slow
def test_importing_a_part_does_not_import_the_rest(tmp_path: Path) -> None:
    loaded = "import sys; print([name for name in {} if name in sys.modules])"
    code = "import focus; " + loaded.format(
        "('torch', 'timm', 'focus.model.detector', 'focus.kernels')"
    )
    assert python("-c", code, cwd=tmp_path) == "[]\n"
    code = "from focus import LOSSES; " + loaded.format("('torch', 'timm', 'focus.model.detector')")
    assert python("-c", code, cwd=tmp_path) == "[]\n"
    code = "from focus import Detector, FocusHead; " + loaded.format("('sklearn', 'accelerate')")
    assert python("-c", code, cwd=tmp_path) == "[]\n"
    code = "import focus.kernels; " + loaded.format(
        "('timm', 'focus.model.detector', 'accelerate')"
    )
    assert python("-c", code, cwd=tmp_path) == "[]\n"


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages: the neighbours, and the wheel on top of them."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    done = subprocess.run(
        [*pip, *NEIGHBOURS], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"{' and '.join(NEIGHBOURS)} could not be downloaded: {last_line}")
    before = hashes(site)
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    after = hashes(site)
    assert len(before) > 1000
    assert {name: after.get(name) for name in before} == before
    added = {Path(name).parts[0] for name in after.keys() - before.keys()}
    assert added == {"focus", next(site.glob("focus_faces-*.dist-info")).name}
    return site


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path; bytecode left aside, which is written on import."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }


@pytest.mark.slow
def test_both_kernels_packages_are_importable_side_by_side(site: Path, tmp_path: Path) -> None:
    code = "import kernels, focus.kernels; print(kernels.__file__, focus.kernels.__file__)"
    theirs, ours = python("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(theirs) == site / "kernels" / "__init__.py"
    assert Path(ours) == site / "focus" / "kernels" / "__init__.py"
    # Their own entry point, not only a file of that name.
    code = "from kernels import get_kernel; print(get_kernel.__module__.split('.')[0])"
    assert python("-c", code, cwd=tmp_path, PYTHONPATH=str(site)) == "kernels\n"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flag"), [("train.py", "--loss"), ("evaluate.py", "--compare")])
def test_a_program_runs_from_a_checkout_beside_both(site: Path, name: str, flag: str) -> None:
    # A checkout has a folder kernels/ too, and Python puts a script's folder first on its path.
    assert flag in python(name, "--help", cwd=CHECKOUT, PYTHONPATH=str(site))
    script = CHECKOUT / name
    code = (
        "import runpy, sys; "
        f"sys.path[0] = {str(CHECKOUT)!r}; sys.argv = [{str(script)!r}]; "
        f"runpy.run_path({str(script)!r}, run_name={script.stem!r}); "
        "import kernels, focus.kernels; print(kernels.__file__, focus.kernels.__file__)"
    )
    theirs, ours = python("-c", code, cwd=CHECKOUT, PYTHONPATH=str(site)).split()
    assert Path(theirs) == site / "kernels" / "__init__.py"
    assert Path(ours) == site / "focus" / "kernels" / "__init__.py"
