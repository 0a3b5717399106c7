"""The command line: how flags and files are read, what is refused, and how a program ends."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from focus.cli import parse, run, spoken_time
from focus.config import EvaluateConfig, TrainConfig, write_config
from focus.errors import InputError
from focus.use_config import ExplainConfig, ExportConfig

from .launching import python
from .launching import run as run_python

CHECKOUT = Path(__file__).parents[1]

# Python imports it as it starts; what it registers comes last.
SITECUSTOMIZE = """
import atexit
from importlib.util import find_spec


def say():
    import kernels
    print(kernels.__file__)
    print(find_spec("focus.kernels").origin)


atexit.register(say)
"""

PROGRAM = """
from pathlib import Path

from focus.cli import run
from focus.config import TrainConfig
from focus.errors import InputError


def main(config):
    if config.name == "broken":
        raise InputError("The folder x is empty:\\n  give another.")
    if config.name == "full":
        Path("/dev/full").write_text("x")
    if config.name == "bytes":
        print(b"a\\xff.png".decode(errors="surrogateescape"))
    if config.name == "interrupted":
        raise KeyboardInterrupt
    print("ran", config.epochs)


run(main, TrainConfig, description="Train a detector.")
"""


WORKER_PROGRAM = """
from torch.utils.data import DataLoader
from focus.cli import run
from focus.config import TrainConfig
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample


def main(config):
    samples = Manifest([Sample(config.data[0])])
    faces = FaceDataset(samples, image_size=32, grid=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
    list(DataLoader(faces, num_workers=1))


if __name__ == "__main__":
    run(main, TrainConfig)
"""


def program(
    tmp_path: Path, *words: str, source: str = PROGRAM, **env: str
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(source)
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        env=clean | env,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = program(tmp_path, "--name", "full")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "program.py: error: No space left on device: free or choose another place.\n"
    )


OUT_OF_MEMORY = """
import os
from focus.cli import run
from focus.config import EvaluateConfig, TrainConfig
from focus.use_config import ExportConfig

def main(config):
    import torch
    if getattr(config, "name", "") == "other":
        raise RuntimeError("another")
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 14.74 GiB "
        "of which 1.06 GiB is free. See documentation for Memory Management"
    )

run(main, globals()[os.environ.get("CONFIG", "TrainConfig")])
"""


def test_a_gpu_without_memory_is_one_line_of_any_process(tmp_path: Path) -> None:
    """Raised here as torch does: there is no GPU to fill."""
    from focus.trainer import EVALUATION_BATCH

    done = program(tmp_path, source=OUT_OF_MEMORY, RANK="1", LOCAL_RANK="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "program.py: error: A GPU is out of memory (tried to allocate 2.25 GiB): give a smaller "
        "--batch-size, of which --gradient-accumulation-steps N takes N for a step, or, where it "
        f"scores, {EVALUATION_BATCH} images at a time, a smaller --image-size.\n"
    )
    other = program(tmp_path, "--name", "other", source=OUT_OF_MEMORY)
    assert other.returncode == 1
    assert other.stderr.endswith("RuntimeError: another\n")


@pytest.mark.parametrize(
    ("kind", "words", "advice"),
    [
        ("EvaluateConfig", [], "give a smaller --batch-size."),
        ("ExportConfig", ["--onnx=x"], "free some of it, or take a larger GPU."),
    ],
)
def test_what_helps_against_too_little_memory_is_a_flag_of_the_program(
    kind: str, words: list[str], advice: str, tmp_path: Path
) -> None:
    done = program(tmp_path, "--model-dir=m", *words, source=OUT_OF_MEMORY, CONFIG=kind)
    assert done.stderr == (
        f"program.py: error: A GPU is out of memory (tried to allocate 2.25 GiB): {advice}\n"
    )


@pytest.mark.parametrize(
    ("path", "use", "words"),
    [
        ("a" * 300, Path.read_text, "File name too long"),
        ("file/x", Path.read_text, "Not a directory"),
        (".", Path.read_text, "Is a directory"),
        ("file", Path.readlink, "Invalid argument"),
    ],
)
def test_a_path_that_is_none_is_one_line(
    path: str,
    use: Callable[[Path], Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        run(lambda _: use(tmp_path / path), TrainConfig, argv=[], prog="p")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"p: error: {words} ({tmp_path / path}): check the path.\n"


def test_an_error_that_names_no_path_is_not_the_users() -> None:
    def main(_: TrainConfig) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    with pytest.raises(OSError, match="Invalid argument"):
        run(main, TrainConfig, argv=[], prog="p")


def train(*words: str) -> TrainConfig:
    return parse(TrainConfig, words)


# Scripts and documents of others rest on these names; a change belongs in the CHANGELOG.
TRAIN_FLAGS = """
    allow-outside-root augment batch-size cam-class channels-last checkpoint-steps
    checkpoints-kept class-weight classification-weight clip-grad columns compare-ce compile
    data data-root debug dry-run ema-decay entropy-target epochs eval-metric focus-level
    focus-schedule focus-weight generator gradient-accumulation-steps heatmaps image-size
    initial-checkpoint label-smoothing layout log-steps loss lr max-bad max-nonfinite
    mixed-precision model momentum name optimizer output patience pretrained recipe report
    report-to resume saliency-schedule saliency-weight sampling schedule seed sheet-epochs
    step-epochs step-gamma sync-bn target-from-maps temperature test-data test-real threads warmup
    weight-decay workers
"""
EVALUATE_FLAGS = """
    allow-outside-root batch-size columns compare data data-root debug faithfulness generator
    heatmaps layout max-bad mixed-precision model-dir output report robustness run test-data
    test-real threads workers
"""


EXPLAIN_FLAGS = """
    as-video batch-size debug frames model-dir output overlay-size paths threads threshold
"""
EXPORT_FLAGS = "check-images debug model-dir onnx threads"


@pytest.mark.parametrize(
    ("config_class", "flags"),
    [
        (TrainConfig, TRAIN_FLAGS),
        (EvaluateConfig, EVALUATE_FLAGS),
        (ExplainConfig, EXPLAIN_FLAGS),
        (ExportConfig, EXPORT_FLAGS),
    ],
)
def test_the_flags_are_these(config_class: Any, flags: str) -> None:
    assert sorted(f.name.replace("_", "-") for f in fields(config_class)) == flags.split()


def test_dashes_and_underscores_spaces_and_equals() -> None:
    for words in (
        ["--image-size", "96"],
        ["--image_size", "96"],
        ["--image-size=96"],
        ["--image_size=96"],
    ):
        assert train(*words).image_size == 96
    assert train("--gradient-accumulation_steps", "2").gradient_accumulation_steps == 2


def test_types() -> None:
    config = train("--lr", "1e-3", "--name", "007", "--epochs", "2", "--mixed-precision", "no")
    assert (config.lr, config.name, config.epochs, config.mixed_precision) == (
        1e-3,
        "007",
        2,
        "no",
    )
    assert train("--cam-class", "true").cam_class == "true"
    assert train("--lr", "1", "--lr", "2").lr == 2
    assert train("--epochs", "1_000").epochs == 1000
    assert train("--seed", "010").seed == 10
    assert (train("--report", "No").report, train("--report", "on").report) == (False, True)


@pytest.mark.parametrize("name", ["null", "~", "Null", "None", "1:30", "true"])
def test_a_text_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    config = train("--name", name, "--data-root", name, "--generator", name, "--data", name)
    assert (config.name, config.data_root, config.generator, config.data) == (*[name] * 3, (name,))
    path = tmp_path / "config.yaml"
    write_config(config, path)
    assert train("--config", str(path)) == config


def test_null_in_a_file_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: null\nlr: ~\nmodel:\npretrained: Null\ndata: a\ndata_root: 'null'")
    expected = TrainConfig(data=("a",), data_root="null")
    assert train("--config", str(path)) == expected


@pytest.mark.parametrize("config", [TrainConfig, EvaluateConfig])
def test_help_says_the_default_of_a_number(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(config, ["--help"])
    assert "cannot be decoded (default: 0.01)" in " ".join(capsys.readouterr().out.split())


def test_repeated_flags_make_lists_and_names_make_mappings() -> None:
    config = train(
        *("--data", "a.csv", "--data=b=c.csv"),
        *("--test-data", "sg2=x.csv", "--test-data=sg3=y=z", "--test-real", "ffhq=f"),
    )
    assert config.data == ("a.csv", "b=c.csv")
    assert config.test_data == {"sg2": "x.csv", "sg3": "y=z"}
    assert config.test_real == {"ffhq": "f"}


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        ([], False),
        (["--resume"], True),
        (["--resume", "--debug"], True),
        (["--resume", "true"], True),
        (["--resume", "false"], False),
        (["--resume=false"], False),
        (["--no-resume"], False),
        (["--resume", "--no_resume"], False),
    ],
)
def test_switches(words: list[str], resume: bool) -> None:
    assert train(*words).resume is resume


def test_an_undecided_switch_stays_undecided() -> None:
    assert train().pretrained is None
    assert train("--pretrained").pretrained is True
    assert train("--no-pretrained").pretrained is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-sise", "3"], "There is no flag --image-sise .did you mean --image-size"),
        (["--image_sise=3"], "There is no flag --image_sise .did you mean --image-size"),
        # An abbreviation is no flag, not even an unambiguous one.
        (["--epoch", "3"], "There is no flag --epoch .did you mean --epochs"),
        (["--grad", "3"], "There is no flag --grad"),
        (["--learning-rate", "1"], "There is no flag --learning-rate .did you mean --lr"),
        (["--per_device_train_batch_size=1"], "train_batch_size .did you mean --batch-size"),
        (["--model-ema"], "There is no flag --model-ema .did you mean --ema-decay"),
        (["--experiment", "a"], "There is no flag --experiment .did you mean --name"),
        (["--data-dir", "a"], "There is no flag --data-dir .did you mean --data[?]"),
        (["--warmup-epochs", "3"], "There is no flag --warmup-epochs .did you mean --warmup[?]"),
        (["--log-interval", "9"], "There is no flag --log-interval .did you mean --log-steps"),
        (["-b", "32"], "There is no flag -b .did you mean --batch-size"),
        (["-j=4"], "There is no flag -j .did you mean --workers"),
        (["--zzz"], "There is no flag --zzz; --help lists"),
        (["-e", "3"], "There is no flag -e"),
        (["-lr", "3"], "There is no flag -lr"),
        (["--"], "There is no flag --"),
        (["--no-lr"], "There is no flag --no-lr"),
        (["--no-resume=true"], "There is no flag --no-resume"),
        (["a.csv"], "'a.csv' stands alone"),
        (["--resume", "maybe"], "--resume takes true or false, got 'maybe'"),
        (["--epochs", "x"], "--epochs takes a whole number, got 'x'"),
        (["--epochs", "2.5"], "--epochs takes a whole number, got '2.5'"),
        (["--lr", "fast"], "--lr takes a number, got 'fast'"),
        (["--lr", "nan"], "--lr takes a number, got 'nan'"),
        # YAML 1.1 has numbers to the base 60.
        (["--epochs", "1:30"], "--epochs takes a whole number, got '1:30'"),
        (["--lr", "1:30.5"], "--lr takes a number, got '1:30.5'"),
        (["--seed", "0x10"], "--seed takes a whole number, got '0x10'"),
        (["--epochs", "null"], "--epochs takes a whole number, got 'null'"),
        (["--lr", "null"], "--lr takes a number, got 'null'"),
        (["--pretrained", "null"], "--pretrained takes true or false, got 'null'"),
        (["--focus-level", "null"], "--focus-level takes one of .*, got 'null'"),
        (["--lr", "-1"], "--lr must be above 0, got -1.0"),
        (["--lr"], "--lr needs a value"),
        (["--lr", "--debug"], "--lr needs a value"),
        (["--name="], "--name needs a value"),
        (["--config"], "--config needs a value"),
        (["--focus-level", "minimise"], "one of none, match.*'minimise' .did you mean minimize"),
        (["--optimizer", "adam"], "--optimizer takes one of adamw, sgd, got 'adam' .did you mean"),
        (["--loss", "saliancy"], "--loss got 'saliancy'.*did you mean saliency"),
        (["--test-data", "x.csv"], "--test-data got 'x.csv': give NAME=PATH"),
        (["--test-data", "a=1", "--test-data", "a=2"], "--test-data has the name 'a' twice"),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(*words)


def test_the_command_line_wins_over_files_and_later_files_over_earlier(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("version: 1\nlr: 1e-3\nepochs: 4\nseed: 1\ndata: [a, b]\n")
    second.write_text("epochs: 5\nimage-size: 96\nmixed_precision: no\ncam_class: true\n")
    config = train("--seed", "2", "--data", "c", "-c", str(first), f"--config={second}")
    assert (config.lr, config.epochs, config.seed, config.data) == (1e-3, 5, 2, ("c",))
    assert (config.image_size, config.mixed_precision, config.cam_class) == (96, "no", "true")
    assert train("-c", str(second), "--loss", "hinge").cam_class == "true"  # names no loss itself
    first.write_text("data: a.csv\ntest_data:\n  sg2: x\n")
    config = train("--config", str(first))
    assert (config.data, config.test_data) == (("a.csv",), {"sg2": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown key 'epoch' .did you mean epochs"),
        ("learning_rate: 1", "unknown key .learning_rate. .did you mean lr"),
        ("config: other.yaml", "unknown key 'config'"),
        ("epochs: many", "epochs in .*config.yaml takes a whole number, got 'many'"),
        ("epochs: [1, 2]", "epochs in .*config.yaml takes a whole number"),
        ("epochs: 1:30", "epochs in .*config.yaml takes a whole number, got '1:30'"),
        ("lr: .inf", "lr in .*config.yaml takes a number, got '.inf'"),
        ("seed: null", "seed in .*config.yaml takes a whole number, got None"),
        ("data: [a, null]", "data in .*config.yaml takes a list of texts, got"),
        ("test_data: {a: null}", "test_data in .* takes `name: path` lines, got"),
        ("test_data: x.csv", "test_data in .* takes `name: path` lines, got 'x.csv'"),
        ("data: {a: b}", "data in .* takes a list of texts"),
        ("focus_level: minimise", "did you mean minimize"),
        ("epochs: 0", "--epochs must be at least 1"),
        ("lr: 1\nlr: 2", "not valid YAML in line 2: 'lr' stands there twice; mend the line"),
        ("lr: [1", "not valid YAML in line .*; mend the line"),
        ("lr: \0", "not valid YAML: .*; mend the file"),
        ("version: 2\nlr: 1", "version 2, this program reads version 1: use the version that"),
        ("- lr", "holds no `name: value` lines: give it some, or leave the flag out"),
        ("", "holds no `name: value` lines: give it some"),
        ("data: " + "[" * 9999, "nested too deeply, .*: write `name: value` lines"),
        ("[lr]: 1", "a list as a key: write `name: value` lines"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        train("--config", str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(InputError, match=f"--config {path} cannot be read: .*; give a file"):
            train("--config", str(path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not text"):
        train("--config", str(tmp_path / "binary"))


def seconds_of_children() -> float:
    """CPU time of the programs that have ended: that of a busy machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_shows_dashes(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):
        start = seconds_of_children()
        done = program(tmp_path, "--help")
        seconds.append(seconds_of_children() - start)
    assert 0 < min(seconds) <= 0.5
    assert done.returncode == 0
    assert done.stderr == ""
    shown = {word.rstrip(",") for word in done.stdout.split() if word.startswith("--")}
    assert {f"--{name}" for name in TRAIN_FLAGS.split()} <= shown
    assert not [word for word in shown if "_" in word]
    for f in fields(TrainConfig):
        first_words = " ".join(f.metadata["help"].split()[:3])
        assert first_words in " ".join(done.stdout.split())


def test_the_command_line_needs_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from focus.cli import parse; from focus.config import TrainConfig, resolve; "
        "resolve(parse(TrainConfig, [])); "
        "print({'torch', 'timm', 'numpy', 'accelerate'} & set(sys.modules))"
    )
    assert python("-c", code) == "set()\n"


def test_a_program_ends_with_one_line_and_its_code(tmp_path: Path) -> None:
    done = program(tmp_path, "--epochs", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran 3\n", "")
    done = program(tmp_path, "--name", "broken")
    assert done.returncode == 2
    assert done.stderr == "program.py: error: The folder x is empty: give another.\n"
    done = program(tmp_path, "--epochs", "x")
    assert done.returncode == 2
    assert done.stderr == "program.py: error: --epochs takes a whole number, got 'x'.\n"
    done = program(tmp_path, "--name", "interrupted")
    assert (done.returncode, done.stderr) == (130, "program.py: interrupted.\n")


def test_a_file_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    done = program(tmp_path, "--name", "bytes", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == r"a\udcff.png"


def test_an_error_in_a_worker_of_a_loader_is_its_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    done = program(tmp_path, "--data", str(tmp_path / "bad.png"), source=WORKER_PROGRAM)
    assert done.returncode == 2
    assert done.stderr == (
        f"program.py: error: Cannot decode '{tmp_path}/bad.png' (cannot identify image file): "
        "mend or remove the file.\n"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for words in (["--name", "broken"], ["--epochs", "x"]):
        done = program(tmp_path, *words, "--debug")
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("program.py: error: ")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, ["program.py: error: The folder"]),
        # Another machine: what is wrong may be there alone.
        ({"RANK": "2", "LOCAL_RANK": "0"}, ["program.py: error: Process 2: The folder"]),
        ({"LOCAL_RANK": "1"}, []),
        ({"RANK": "3", "LOCAL_RANK": "1"}, []),
    ],
)
def test_of_several_processes_one_of_each_machine_speaks(
    tmp_path: Path, env: dict[str, str], said: list[str]
) -> None:
    done = program(tmp_path, "--name", "broken", **env)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition(" x is empty")[0] for line in lines] == said


def named_kernels(module: str, beside: Path, cwd: Path) -> tuple[Path, Path]:
    """Where ``python -m module`` finds another package ``kernels``, in ``beside``, and ours."""
    (beside / "kernels.py").touch()
    (beside / "sitecustomize.py").write_text(SITECUSTOMIZE)
    said = python("-m", module, "--help", cwd=cwd, PYTHONPATH=str(beside))
    theirs, ours = map(Path, said.splitlines()[-2:])
    return theirs, ours


@pytest.mark.parametrize("module", ["focus", "focus.data", "focus.experiment"])
def test_a_checkout_hides_no_package_named_kernels(module: str, tmp_path: Path) -> None:
    """``python -m`` puts the folder it is called in first on the path: here one with a kernels/."""
    theirs, ours = named_kernels(module, tmp_path, CHECKOUT)
    assert theirs == tmp_path / "kernels.py"
    assert ours == CHECKOUT / "kernels" / "__init__.py"


def test_an_installed_package_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    (site := tmp_path / "site").mkdir()
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "focus", site / "focus", ignore=without)
    shutil.copytree(CHECKOUT / "kernels", site / "focus" / "kernels", ignore=without)
    theirs, ours = named_kernels("focus", site, tmp_path)
    assert theirs == site / "kernels.py"
    assert ours == site / "focus" / "kernels" / "__init__.py"


def test_a_checkout_without_kernels_of_its_own_is_refused(tmp_path: Path) -> None:
    """Called in one checkout where another, or nothing, is installed."""
    # Another process may write there.
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "focus", tmp_path / "focus", ignore=without)
    done = run_python("-m", "focus", "--help", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path} is a checkout that is not the installed one: "
        "pip install -e it, or call this from another folder.\n"
    )


def test_times_are_told_in_the_unit_that_is_read() -> None:
    times = (44.6, 89, 91, 5340, 5400, 9000)
    assert [*map(spoken_time, times)] == ["45 s", "89 s", "2 min", "89 min", "1.5 h", "2.5 h"]
