"""The command line and configuration files: what is read, and what is refused in one sentence."""

import re
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from focus import __version__
from focus.__main__ import main as focus
from focus.config.command_line import OTHER_NAMES, OURS, load_config, parse
from focus.config.data import (
    AnnotateConfig,
    CheckConfig,
    CropConfig,
    DemoConfig,
    ManipulateConfig,
    MapsConfig,
)
from focus.config.experiment import ExperimentConfig
from focus.config.options import flag, flags
from focus.config.recipes import RECIPES
from focus.config.train import TrainConfig, resolve, write_config
from focus.config.use import EvaluateConfig, ExplainConfig, ExportConfig
from focus.errors import InputError

from ..launching import CHECKOUT, run

DATA = """allow-outside-root columns data data-root debug generator human-maps labels layout
    max-images max-pixels threads"""
IMAGES = f"{DATA} drop-copies max-bad test-data test-real"
SHARED = f"{IMAGES} device image-cache mixed-precision report workers"
USE = "debug model-dir threads"
# Scripts and documents of others rest on these names; a change belongs in the CHANGELOG.
FLAGS = {
    TrainConfig: f"""{SHARED}
        augment batch-size cached-features cam-class channels-last checkpoint-steps
        checkpoints-kept class-weight classification-weight clip-grad compare-ce
        compile compile-mode cudnn-benchmark dry-run entropy entropy-target epochs
        eval-batch-size eval-metric fit focus-level focus-schedule focus-weight
        grad-accum-steps grad-checkpointing image-size initial-checkpoint input
        label-smoothing layer-decay log-steps loss lr
        max-nonfinite model model-ema-decay momentum name opt output patience pool pretrained
        recipe report-to resume saliency-schedule saliency-weight sampling sched seed sheet-epochs
        step-epochs step-gamma sync-bn tf32 target-from-maps temperature tune views warmup
        weight-decay""",
    EvaluateConfig: f"""{SHARED} batch-size common compare equalise faithfulness model-dir output
        people higher-is robustness run score-scale scores threshold training-generators""",
    ExplainConfig: f"""{USE}
        as-video batch-size device faces frames max-pixels output overlay-size paths threshold""",
    ExportConfig: f"{USE} check-images onnx",
    AnnotateConfig: f"""{DATA} annotator browser host maps min-annotators model-dir output port
        practice repeat-every seed who""",
    CropConfig: f"{DATA} faces margin output resume",
    DemoConfig: "debug folder",
    ManipulateConfig: f"{DATA} image-size output resume seed",
    MapsConfig: f"{DATA} from granularity output resume",
    ExperimentConfig: f"""{DATA}
        archive headroom jobs last-stage losses output photographs place quick range recipe recipes
        report scale search seeds test-data test-real train weights""",
    CheckConfig: f"{IMAGES} initial-checkpoint output seed strict",
}


def train(*words: str) -> TrainConfig:
    return parse(TrainConfig, words)


@pytest.mark.parametrize("config_class", FLAGS)
def test_the_flags_are_these_and_in_the_help(
    config_class: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = flags(config_class)
    names = [flag(name)[2:] for name in declared]
    assert sorted(names) == sorted(FLAGS[config_class].split())
    with pytest.raises(SystemExit) as stop:
        parse(config_class, ["--help"])
    assert not stop.value.code
    shown = capsys.readouterr().out
    positional = {name for name, f in declared.items() if f.metadata["positional"]}
    for name in {*names, "config"} - positional:
        assert re.search(rf"--{name}\b", shown)


def test_the_help_of_train_lists_the_table_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--help"])
    assert f"--recipe NAME {', '.join(RECIPES)}: " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("config_class", [ExplainConfig, EvaluateConfig])
def test_the_help_says_the_own_default_of_a_setting_that_recipes_have(
    config_class: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(config_class, ["--help"])
    (said,) = re.findall(r"--batch-size INT (.*?\))", " ".join(capsys.readouterr().out.split()))
    assert said.endswith("(default: 64)")


def test_values() -> None:
    for words in (["--image-size", "96"], ["--image_size=96"], ["--image-size=96"]):
        assert train(*words).image_size == 96
    config = train("--lr", "1e-3", "--name", "007", "--mixed-precision", "no", "--seed", "010")
    assert (config.lr, config.name, config.mixed_precision, config.seed) == (1e-3, "007", "no", 10)
    assert train("--lr", "1", "--lr", "2").lr == 2
    assert train("--cam-class", "true").loss.cam_class == "true"
    for name in ("null", "None", "1:30", "true"):
        assert train("--name", name, "--data", name).name == name


def test_repeated_flags_make_lists_and_names_make_mappings() -> None:
    config = train(
        "--data",
        "a.csv",
        "d.csv",
        "--data=b=c.csv",
        "--report-to",
        "all",
        "--test-data",
        "sg2=x.csv",
        "--test_data=sg3=y=z",
        "--test-real",
        "ffhq=f",
    )
    assert (config.data, config.report_to) == (("a.csv", "d.csv", "b=c.csv"), ("all",))
    assert config.test_data == {"sg2": "x.csv", "sg3": "y=z"}
    assert config.test_real == {"ffhq": "f"}
    compared = parse(EvaluateConfig, ["--compare", "runs/a", "runs/b", "--debug"])
    assert (compared.compare, compared.debug) == (("runs/a", "runs/b"), True)


def test_switches() -> None:
    for words, resume in (
        ([], False),
        (["--resume"], True),
        (["--resume", "--debug"], True),
        (["--resume", "true"], True),
        (["--resume", "false"], False),
        (["--resume=No"], False),
        (["--resume", "--no_resume"], False),
    ):
        assert train(*words).resume is resume
    for words, pretrained in (
        ([], None),
        (["--pretrained"], True),
        (["--pretrained", "false"], False),
        (["--no-pretrained"], False),
    ):
        assert train(*words).pretrained is pretrained


def test_paths_stand_before_or_behind_the_flags() -> None:
    for words in (
        ["a.png", "b.png", "--debug", "--model-dir", "m"],
        ["--model-dir", "m", "--debug", "a.png", "b.png"],
        ["--model-dir", "m", "--debug", "true", "a.png", "b.png"],
    ):
        config = parse(ExplainConfig, words)
        assert (config.debug, config.paths) == (True, ("a.png", "b.png"))
    check = parse(CheckConfig, ["a.csv", "--test-data", "S=b", "--drop-copies", "--output", "o"])
    assert (check.data, check.test_data) == (("a.csv",), {"S": "b"})
    assert (check.drop_copies, check.output) == (True, "o")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image_sise=3"], "There is no flag --image-sise .did you mean --image-size"),
        # An abbreviation is no flag, not even an unambiguous one.
        (["--epoch", "3"], "There is no flag --epoch .did you mean --epochs"),
        (["--zzz"], "There is no flag --zzz; --help lists"),
        (["a.csv"], "'a.csv' stands alone: write it behind its flag: --data PATH"),
        (["a=b"], "'a=b' stands alone: .* a flag of its own: --test-data NAME=PATH"),
        (["--test-real", "a=b", "c=d"], "'c=d' stands .* of its own: --test-real c=d[.]"),
        (["--resume=maybe"], "Argument --resume/--no-resume: .*'maybe'"),
        (["--epochs", "2.5"], "Argument --epochs: invalid int value: '2.5'"),
        (["--lr", "nan"], "--lr must be above 0, got nan"),
        (["--name="], "--name got an empty text"),
        (["--focus-level", "minimise"], "--focus-level: invalid choice: 'minimise' .*minimize"),
        (["--loss", "saliancy"], "There is no loss 'saliancy'.*did you mean saliency"),
        (["--test-data", "x.csv"], "--test-data: got 'x.csv', give NAME=PATH"),
        (["--test-data", "a=1", "--test-data", "a=2"], "--test-data: has the name 'a' twice"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(*words)
    assert "\n" not in str(caught.value)


def test_a_second_setting_of_the_runs_is_told_their_flag() -> None:
    words = ["--train", "epochs=1", "lr=2"]
    with pytest.raises(InputError, match=r"'lr=2' stands alone: .*: --train lr=2") as caught:
        parse(ExperimentConfig, words)
    advice = str(caught.value).rpartition(": ")[2].removesuffix(".").split()
    assert parse(ExperimentConfig, [*words[:2], *advice]).train == {"epochs": "1", "lr": "2"}


def test_the_command_line_wins_over_files_and_later_files_over_earlier(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("version: 2\nlr: 1e-3\nepochs: 4\nseed: 1\ndata: [a, b]\ntest_data: {s: t}\n")
    second.write_text("epochs: 5\nimage-size: 96\nmixed_precision: no\ncam_class: true\nname: ~\n")
    files = ["-c", str(first), f"--config={second}"]
    config = train("--seed", "2", "--data", "c", *files, "--test-data", "u=v")
    assert (config.lr, config.epochs, config.seed, config.name) == (1e-3, 5, 2, None)
    assert (config.data, config.test_data) == (("c",), {"u": "v"})
    assert (config.image_size, config.mixed_precision, config.loss.cam_class) == (96, "no", "true")
    assert train(*files).data == ("a", "b")
    assert (
        train("-c", str(second), "--loss", "hinge").loss.cam_class == "true"
    )  # names no loss itself
    first.write_text("data: a.csv\npretrained: Null\nresume: yes\n")
    assert load_config(TrainConfig, first) == TrainConfig(data=("a.csv",), resume=True)
    assert parse(CheckConfig, ["b.csv", "-c", str(first)]).data == ("b.csv",)
    assert parse(CheckConfig, ["-c", str(first)]).data == ("a.csv",)


def test_the_check_takes_a_file_of_train_and_tells_its_flags_from_others(tmp_path: Path) -> None:
    """Its own are about images: a stranger reads twenty flags, not eighty."""
    file = tmp_path / "config.yaml"
    write_config(resolve(train("--data", "faces.csv", "--seed", "7", "--max-bad", "0.2")), file)
    config = parse(CheckConfig, ["-c", str(file)])
    assert (config.data, config.seed, config.max_bad) == (("faces.csv",), 7, 0.2)
    assert config.output is None  # that of the file is where runs are
    assert config.for_training() == train("--data", "faces.csv", "--seed", "7", "--max-bad", "0.2")
    for flag_of_train in ("--lr=1e-3", "--no-compile"):
        with pytest.raises(InputError, match="as it changes nothing here: leave it out"):
            parse(CheckConfig, ["faces.csv", flag_of_train])
    with pytest.raises(InputError, match=r"no flag --sed \(did you mean --seed\?\)"):
        parse(CheckConfig, ["faces.csv", "--sed", "1"])
    file.write_text("data: faces.csv\nlearning: 1\n")
    with pytest.raises(InputError, match="unknown key 'learning'"):
        parse(CheckConfig, ["-c", str(file)])
    # Also in a file that has settings of training, which are passed over.
    file.write_text("data: faces.csv\noutput: runs\nlr: 1e-3\ntest_daat: {X: b}\n")
    with pytest.raises(InputError, match=r"unknown key 'test_daat' \(did you mean --test-data\?\)"):
        parse(CheckConfig, ["-c", str(file)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown key 'epoch' .did you mean --epochs"),
        ("epochs: 1:30", "--epochs: invalid int value: '1:30'"),  # 90 in YAML
        ("epochs: [1, 2]", r"epochs cannot be \['1', '2'\]"),
        ("lr: [1", "cannot be read: .*; give a YAML file"),
        ("version: 1\nlr: 1", "has version 1, not 2: read it with the version of focus that"),
        ("- lr", "holds no `name: value` lines: give it some"),
        ("lr: 1\nepochs: 2\nlr: 3", "the key 'lr' is there twice, in lines 1 and 3; give"),
        ("test_data: {a: x, a: y}", "the key 'a' is there twice, in lines 1 and 1"),
        ("batch-size: 2\nbatch_size: 4", "has batch_size twice, with - and with _: remove one"),
        ("lr: " + 100_000 * "[", "cannot be read: it is nested too deeply; give a YAML file"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        train("--config", str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"--config .*missing.yaml cannot be read"):
        train("--config", str(tmp_path / "missing.yaml"))


def test_a_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = TrainConfig.of(
        data=("a b.csv", "1", "null"),
        human_maps="maps: all",
        layout="0_real-1_fake",
        columns=("path=a b,label=",),
        allow_outside_root=True,
        test_data={"stylegan": "x.csv", "007": "true"},
        loss="cyborg",
        focus_weight=1e-7,
        cam_class="true",
        mixed_precision="no",
        seed=2**32 - 1,
        name="-1e3",
        resume=True,
    )
    for written in (config, resolve(config)):
        write_config(written, path)
        assert path.read_text().startswith("version: 2\n")
        assert resolve(load_config(TrainConfig, path)) == resolve(config)
    evaluation = EvaluateConfig(run="runs/a", data=("b",), batch_size=3)
    write_config(evaluation, path)
    assert load_config(EvaluateConfig, path) == evaluation


def test_another_loss_or_recipe_over_a_runs_configuration(tmp_path: Path) -> None:
    """It spells out what its own loss and recipe decided, which no other takes over."""
    file = tmp_path / "config.yaml"
    shared = ("--label-smoothing", "0.1", "--temperature", "2")  # by these losses are compared
    flags = "--loss match --focus-schedule 0:0,5:1 --focus-weight 2 --entropy sum"
    run = train(*flags.split(), *shared)
    write_config(resolve(run), file)
    config = ["--config", str(file)]
    assert resolve(train(*config)) == resolve(run)
    assert resolve(train(*config, "--loss", "match")) == resolve(run)
    name = resolve(run).name
    for loss_flags in (["--loss", "ce"], ["--loss", "hinge", "--entropy-target", "0.4"]):
        expected = resolve(train(*loss_flags, *shared, "--name", name))
        assert resolve(train(*config, *loss_flags)) == expected
    paper = resolve(train(*config, "--recipe", "paper", "--lr", "0.1"))
    assert (paper.model, paper.opt, paper.lr) == ("densenet121.tv_in1k", "sgd", 0.1)
    write_config(resolve(train("--recipe", "foundation")), file)
    assert resolve(train(*config, "--recipe", "demo")).cached_features is None
    assert resolve(train(*config)).cached_features == "bfloat16"
    # What somebody wrote stays.
    file.write_text("recipe: paper\nloss: match\nepochs: 5\ntemperature: 2\n")
    demo = resolve(train(*config, "--recipe", "demo", "--loss", "hinge"))
    assert (demo.epochs, demo.image_size, demo.loss.temperature) == (5, 64, 2)


def test_the_examples_are_what_their_programs_read() -> None:
    configs = CHECKOUT / "configs"
    unattended = resolve(load_config(TrainConfig, configs / "unattended.yaml"))
    assert (unattended.checkpoint_steps, unattended.patience) == (500, 10)
    for name, kind, processes in (("one-device", "NO", 1), ("four-gpus", "MULTI_GPU", 4)):
        launcher_config = load_config_from_file(str(configs / f"{name}.yaml"))
        assert (launcher_config.distributed_type, launcher_config.num_processes) == (
            kind,
            processes,
        )


def test_sub_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, shown in (
        ([], 2, "explain "),
        (["--help"], 0, "check, crop, manipulate, maps, demo"),
        (["data", "--help"], 0, "focus data COMMAND"),
        (["data", "crop", "--help"], 0, "--margin FLOAT"),
        (["--version"], 0, f"focus {__version__}\n"),
        (["exprot"], 2, "There is no command 'exprot' (did you mean export?)"),
        (["data", "chek"], 2, "There is no command 'chek' (did you mean check?)"),
        (["train", "--epoch", "3"], 2, "focus train: error: There is no flag --epoch"),
    ):
        with pytest.raises(SystemExit) as stop:
            focus(words)
        assert (stop.value.code or 0) == code
        printed = capsys.readouterr()
        assert shown in printed.out + printed.err


def test_help_loads_no_torch_and_no_numpy() -> None:
    """It is there at once: 0.3 s of CPU at most."""
    code = (
        "import sys, time; sys.argv = ['train.py', '--help']; import runpy\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit: print(time.process_time(), {'torch', 'numpy'} & set(sys.modules))"
    )
    runs = [run("-c", code, cwd=CHECKOUT, PYTHONDONTWRITEBYTECODE="") for _ in range(3)]
    assert all("--loss NAME" in done.stdout for done in runs)
    last = [done.stdout.splitlines()[-1].split(maxsplit=1) for done in runs]
    assert {modules for _, modules in last} == {"set()"}
    assert min(float(seconds) for seconds, _ in last) < 0.3


@pytest.mark.parametrize("words", [["train.py"], ["-m", "focus", "data", "check"]])
def test_a_wrong_path_is_told_before_torch_is_imported(words: list[str]) -> None:
    flags = ["--test-data", "x=nowhere/x"] if words == ["train.py"] else ["nowhere/x"]
    done = run("-X", "importtime", *words, *flags, cwd=CHECKOUT)
    assert done.returncode == 2
    *loaded, last = done.stderr.splitlines()
    assert last.endswith("error: There is no file or folder nowhere/x: check the path.")
    assert not any(line.endswith(("| torch", "| numpy")) for line in loaded)


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('run')")
    (tmp_path / "c.yaml").write_text("nonsense: 1")
    for words in (
        ("-m", "focus", "data", "demo"),
        ("-m", "focus.experiment"),
        (CHECKOUT / "train.py",),
        (CHECKOUT / "evaluate.py",),
    ):
        done = run(*words, "--config", "c.yaml", cwd=tmp_path)
        assert "has an unknown key 'nonsense'" in done.stderr, done.stderr
    (tmp_path / "focus.py").write_text("raise SystemExit('run')")
    done = run("-P", "-m", "focus", "data", "demo", "--config", "c.yaml", cwd=tmp_path)
    assert "has an unknown key 'nonsense'" in done.stderr, done.stderr


def test_each_other_name_leads_to_a_flag_and_the_page_has_the_table() -> None:
    ours = flags(TrainConfig).keys()
    assert set(OURS.values()) <= ours
    assert not {name for name in OURS if name in ours and OURS[name] != name}
    rows = ["| here | timm | Hugging Face |", "|---|---|---|"]
    for name, others in OTHER_NAMES.items():
        cells = " | ".join(f"`{other}`" if other else "" for other in others)
        rows.append(f"| `{flag(name)}` | {cells} |")
    assert "\n".join(rows) in (CHECKOUT / "docs/training.md").read_text(encoding="utf-8")
    assert len(OTHER_NAMES) > 30


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--heatmaps", "maps"], "--human-maps"),
        (["--optimizer=sgd"], "--opt"),
        (["--gradient_accumulation_steps", "2"], "--grad-accum-steps"),
        (["--per-device-train-batch-size", "2"], "--batch-size"),
        (["--warmup-epochs", "5"], "--warmup"),
    ],
)
def test_another_name_of_a_flag_is_answered_with_ours(words: list[str], flag: str) -> None:
    with pytest.raises(InputError, match=rf"There is no flag .* \(did you mean {flag}\?\)"):
        parse(TrainConfig, words)


def test_a_file_with_an_earlier_name_is_answered_likewise(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optimizer: sgd\n")
    with pytest.raises(InputError, match=r"unknown key 'optimizer' \(did you mean --opt\?\)"):
        parse(TrainConfig, ["--config", str(tmp_path / "c.yaml")])
