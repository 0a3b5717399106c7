"""The command line: how flags and files are read, and what is refused."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from focus.config.command_line import parse
from focus.config.train import EvaluateConfig, TrainConfig, write_config
from focus.config.use import ExplainConfig, ExportConfig
from focus.errors import InputError


def train(*words: str) -> TrainConfig:
    return parse(TrainConfig, words)


# Scripts and documents of others rest on these names; a change belongs in the CHANGELOG.
TRAIN_FLAGS = """
    allow-outside-root augment batch-size cam-class channels-last checkpoint-steps
    checkpoints-kept class-weight classification-weight clip-grad columns compare-ce compile
    data data-root debug dry-run ema-decay entropy-target epochs eval-batch-size eval-metric
    focus-level focus-schedule focus-weight generator gradient-accumulation-steps heatmaps
    image-size initial-checkpoint label-smoothing layout log-steps loss lr max-bad max-nonfinite
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
    compared = parse(EvaluateConfig, ["--compare", "runs/a", "runs/b", "--debug", "--compare=c"])
    assert (compared.compare, compared.debug) == (("runs/a", "runs/b", "c"), True)


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


def test_what_follows_a_switch_is_a_path_where_paths_stand_alone() -> None:
    for words, debug in (
        (["--debug"], True),
        (["--debug", "true"], True),
        (["--debug", "false"], False),
    ):
        config = parse(ExplainConfig, [*words, "a.png", "b.png", "--model-dir", "m"])
        assert (config.debug, config.paths) == (debug, ("a.png", "b.png"))


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
        (["--data", "a.csv", "b.csv"], "'b.csv' stands alone"),
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


# Lists of ten, each of the one before: written out, a million words.
_BOMB = "- &a0 [x]\n" + "".join(
    f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 6)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown key 'epoch' .did you mean epochs"),
        ("learning_rate: 1", "unknown key .learning_rate. .did you mean lr"),
        ("config: other.yaml", "unknown key 'config'"),
        ("nothing: 1", "unknown key 'nothing': drop it, or take one of --help.$"),
        (
            "compute_environment: LOCAL_MACHINE\nnum_processes: 2",
            "is a file of Accelerate's: give it to accelerate launch, by --config_file "
            ".*config.yaml before the program.$",
        ),
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
        ("lr: 1\nlr: 2", "not valid YAML in line 2: 'lr' stands there twice; fix the line"),
        (
            "batch-size: 4\nlr: 1\nbatch_size: 26",
            "--config .*config.yaml has both 'batch-size' and 'batch_size', which are one setting: "
            "drop one of them.$",
        ),
        ('output: ""', "--output got an empty text: give a value, or leave it out.$"),
        ("data: ''", "--data got an empty text"),
        ('data: [a, ""]', "--data got an empty text"),
        ('initial_checkpoint: ""', "--initial-checkpoint got an empty text"),
        ("lr: [1", "not valid YAML in line .*; fix the line"),
        ("lr: \0", "not valid YAML: .*; fix the file"),
        ("version: 2\nlr: 1", "version 2, this program reads version 1: use the version that"),
        ("- lr", "holds no `name: value` lines: give it some, or leave the flag out"),
        ("", "holds no `name: value` lines: give it some"),
        ("data: " + "[" * 9999, "nested too deeply, .*: write `name: value` lines"),
        ("[lr]: 1", "a list as a key: write `name: value` lines"),
        ('data: "a\\0b"', r"data in .*config.yaml takes a list of texts, got \['a\\x00b'\]"),
        ('output: "a\\0b"', r"output in .*config.yaml takes one text, got 'a\\x00b'"),
        (f"data:\n{_BOMB}", r"data in .* takes a list of texts, got \[\['x'\], .{,999}$"),
        (f"loss:\n{_BOMB}", r"loss in .* takes one text, got \[\['x'\], .{,999}$"),
        (f"cam_class:\n{_BOMB}", r"cam_class in .* takes one of .{,999}$"),
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
