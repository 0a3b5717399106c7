"""Wheel and sdist hold what they should, imports point one way, and two kernels live side by side.

``kernels`` is also the name of a package of Hugging Face's, which has to stay importable.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from .launching import CHECKOUT, python, run

pytestmark = pytest.mark.slow
AS_LINKED = shutil.ignore_patterns("__pycache__", "kernels")
"""Not what work leaves in focus/: focus/kernels is a link of setup.py's."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is installed, which holds nothing of an earlier build."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, tree)
    for name in ("focus", "kernels"):
        shutil.copytree(CHECKOUT / name, tree / name, ignore=AS_LINKED)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    python("-m", "build", "--wheel", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    python("-m", "twine", "check", "--strict", built, cwd=tree)
    return built


@pytest.mark.parametrize("editable", [False, True])
def test_types_and_names_are_found_however_it_is_installed(
    editable: bool, tree: Path, wheel: Path, tmp_path: Path
) -> None:
    """By mypy on the README's example, and by what completes names."""
    python("-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))  # without its own links
    interpreter = tmp_path / "venv" / "bin" / "python"
    words = ["--no-build-isolation", "-e", tree] if editable else [wheel]
    python("-m", "pip", "--python", interpreter, "install", "-q", "--no-deps", *words, cwd=tmp_path)
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[0]
    wrong = "import focus.kernels\nDetector(imagesize=3)\nfocus.kernels.focus_head()\n"
    (tmp_path / "example.py").write_text(f"{example}\nreveal_type(detector.config)\n{wrong}")
    mypy = ["-m", "mypy", "--strict", "--cache-dir", tree / "mypy"]
    mypy += ["--python-executable", interpreter]
    done = run(*mypy, "example.py", cwd=tmp_path)
    assert 'Revealed type is "focus.model.config.DetectorConfig"' in done.stdout
    first, second = re.findall(r": error: (.*)", done.stdout)
    assert first.startswith('Unexpected keyword argument "imagesize" for "Detector"')
    assert second.startswith('Missing positional arguments "features", "weight"')
    code = "import focus; print(focus.__file__, *dir(focus))"
    done = subprocess.run(
        [interpreter, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    focus_file, *names = done.stdout.split()
    assert focus_file.startswith(str(tree if editable else tmp_path))
    assert {"Detector", "LossConfig", "LOSSES", "FocusHead", "__version__"} <= {*names}


def test_the_wheel_holds_focus_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    (info,) = {name.split("/")[0] for name in names} - {"focus"}
    assert info.endswith(".dist-info")
    assert f"{info}/licenses/LICENSE" in names
    # Each file of the two folders is in it: no package and no data file was forgotten.
    sources = {
        f"{package}/{file.relative_to(CHECKOUT / folder).as_posix()}"
        for folder, package in (("focus", "focus"), ("kernels", "focus/kernels"))
        for file in (CHECKOUT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if name.startswith("focus/")} == sources


def test_the_sdist_holds_what_git_tracks_and_nothing_else(tmp_path: Path) -> None:
    """Its README is about the programs, and its tests are to run in it."""
    if not (CHECKOUT / ".git").exists():
        pytest.skip("no git repository: it is not known which files are tracked")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if (CHECKOUT / name).is_file()}
    tree = tmp_path / "tree"
    left_by_work = ("runs/a/config.yaml", "focus/__pycache__/a.pyc", "build/lib/focus/errors.py")
    left_by_work += ("bench/.benchmarks/0001.json", "tests/.pytest_cache/lastfailed")
    for name in (*tracked, *left_by_work):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if name in tracked:
            shutil.copy(CHECKOUT / name, tree / name)
        else:
            (tree / name).touch()
    python("-m", "build", "--sdist", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.tar.gz")
    python("-m", "twine", "check", "--strict", built, cwd=tree)
    with tarfile.open(built) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    made = {name for name in names if name.startswith("src/focus_faces.egg-info/")}
    expected = {name for name in tracked if not name.startswith((".ci/", ".gitignore"))}
    assert names - made - {"PKG-INFO", "setup.cfg"} == expected


def test_importing_a_part_does_not_import_the_rest(tmp_path: Path) -> None:
    for statement, others in (
        ("import focus", {"torch", "timm", "focus.model.detector", "focus.kernels"}),
        ("from focus import LOSSES", {"torch", "timm", "focus.model.detector"}),
        ("from focus import Detector, FocusHead", {"sklearn", "accelerate"}),
        ("import focus.kernels", {"timm", "triton", "focus.model.detector", "accelerate"}),
        # focus evaluate --scores, without a network.
        ("import focus.use.evaluate", {"torch", "torchvision", "timm", "accelerate"}),
        ("import focus.data.making.faces", {"focus.config.train", "focus.config.data"}),
    ):
        code = f"{statement}; import sys; print({others} & sys.modules.keys())"
        assert python("-c", code, cwd=tmp_path) == "set()\n", statement


@pytest.mark.parametrize(
    ("module", "most"),
    [("focus.model.detector", 30), pytest.param("focus.training.run", 108, marks=pytest.mark.slow)],
)
def test_a_module_loads_few_others(module: str, most: int, tmp_path: Path) -> None:
    """Who reads it has as many to know."""
    code = (
        f"import sys, {module}; print(*(m for m in sys.modules if m.partition('.')[0] == 'focus'))"
    )
    loaded = python("-c", code, cwd=tmp_path).split()
    assert len(loaded) <= most, sorted(loaded)


def test_an_import_that_points_up_is_found_and_there_is_no_circle(tmp_path: Path) -> None:
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed")
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    shutil.copytree(CHECKOUT / "focus", tmp_path / "focus", ignore=AS_LINKED)
    shutil.copytree(CHECKOUT / "kernels", tmp_path / "focus" / "kernels")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    lint = ("-c", program, "pyproject.toml", "--no-cache")
    done = run(*lint, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, " kept, 0 broken" in done.stdout) == (0, True), done.stdout
    with (tmp_path / "focus" / "metrics" / "arrays.py").open("a") as file:
        file.write("\n\ndef planted() -> None:\n    from focus.report import page\n")
    done = run(*lint, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, "focus.metrics.arrays -> focus.report" in done.stdout) == (1, True)

    # Within a package, too, and imports inside of functions count.
    graph = grimp.build_graph("focus", cache_dir=None, exclude_type_checking_imports=True)
    imported = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imported) > 100
    TopologicalSorter(imported).prepare()  # a CycleError names the circle


def test_the_wheel_lives_beside_hugging_faces_kernels(wheel: Path, tmp_path: Path) -> None:
    """Also from a checkout, whose folder kernels/ Python would put first on its path."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    done = subprocess.run([*pip, "kernels"], capture_output=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip("the package kernels could not be downloaded")
    theirs = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    subprocess.run([*pip, str(wheel)], check=True, timeout=300)
    assert all(path.read_bytes() == content for path, content in theirs.items())

    places = [str(site / name / "__init__.py") for name in ("kernels", "focus/kernels")]
    show = "import kernels, focus.kernels; print(kernels.__file__, focus.kernels.__file__)"
    from_checkout = (
        "import runpy, sys; sys.path[0] = sys.argv[0] = '.'; "
        f"runpy.run_path('train.py', run_name='train'); {show}"
    )
    for code, folder in ((show, tmp_path), (from_checkout, CHECKOUT)):
        assert python("-c", code, cwd=folder, PYTHONPATH=str(site)).split() == places
    assert "--loss" in python("train.py", "--help", cwd=CHECKOUT, PYTHONPATH=str(site))
