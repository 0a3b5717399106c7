"""The command line and the configuration file of a program, from its configuration class.

Dashes and underscores are alike, flags are never abbreviated, and every error is one sentence. A
value in a file is read as the same text on the command line is, so ``mixed_precision: no`` is not a
boolean and ``lr: 1e-3`` is a number; ``null`` leaves a setting as it is.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import Field, dataclass, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from focus import __version__
from focus.config.losses import LOSS_SETTINGS, SET_BY_LOSS
from focus.config.options import GROUPS, flag, flags, flat
from focus.config.recipes import RECIPES
from focus.config.shared import HUB_PREFIX
from focus.config.train import CONFIG_VERSION, TrainConfig
from focus.errors import InputError, did_you_mean
from focus.runtime.cpu_time import clocked
from focus.runtime.machine import is_main_process
from focus.runtime.program import program

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SHAPES: dict[type, type] = {list: tuple, dict: dict}
_INPUTS = (
    *("data", "data_root", "test_data", "test_real", "human_maps", "initial_checkpoint"),
    *("run", "scores", "people", "compare", "paths", "check_images"),
)
_NULL = ("", "~", "null", "Null", "NULL")
_RECIPE = RECIPES["paper"].keys()
_DECIDED_BY = {"loss": SET_BY_LOSS, "recipe": _RECIPE | {"cached_features"}}
_DEFAULTS = {"loss": LOSS_SETTINGS, "recipe": _RECIPE}


def parse(
    config_class: type[C],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
) -> C:
    """Read the command line (default: the process's) and the YAML files that ``--config`` names.

    The command line wins over the files, a later file over an earlier one. The ``config.yaml`` of a
    run spells out all that its loss and its recipe decided: beside another one, that is dropped.

    Raises:
        InputError: something on the command line or in a file cannot be used.
        SystemExit: with code 0, after ``--help``.
    """
    return _made(
        config_class, _values(_Parser(config_class, prog, description), config_class, argv)
    )


def _values(
    parser: "_Parser", config_class: type[Any], argv: Sequence[str] | None
) -> dict[str, Any]:
    """Return the settings of the command line and its files by the names of their flags."""
    given = parser.values(sys.argv[1:] if argv is None else argv)
    values = _of_run(given, parser) if config_class is TrainConfig else {}
    for path in given.pop("config", ()):
        values = _overlaid(values, _read_yaml(path, parser))
    values = _overlaid(values, given)
    return {name: value for name, value in values.items() if value is not None}


def _made(config_class: type[C], values: Mapping[str, Any]) -> C:
    make = getattr(config_class, "of", config_class)  # where one is nested
    made: C = make(**values)
    return made


def _of_run(given: Mapping[str, Any], parser: "_Parser") -> dict[str, Any]:
    """Return the settings of the run that ``--resume --name NAME`` names; none of others."""
    run = Path(given.get("output", TrainConfig.output), given.get("name", ""))
    if not given.get("resume") or "name" not in given or not (run / "config.yaml").is_file():
        return {}
    # The folder may have been moved, and its parent is the output now.
    return _read_yaml(str(run / "config.yaml"), parser) | {"output": str(run.parent)}


def train_settings(given: Mapping[str, str]) -> dict[str, Any]:
    """Return settings of focus train, read as on its command line, without those as by default."""
    words = [f"{flag(name)}={value}" for name, value in given.items()]
    values = _values(_Parser(TrainConfig), TrainConfig, words)
    TrainConfig.of(**values)
    usual = flat(TrainConfig())
    return {name: values[name] for name in usual if values.get(name, usual[name]) != usual[name]}


def load_config(config_class: type[C], path: str | Path) -> C:
    """Load the configuration in a YAML file, as ``--config`` reads it."""
    return parse(config_class, [f"--config={path}"])


def run(
    main: Callable[[C], object],
    config_class: type[C],
    *,
    description: str = "",
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line, call ``main`` and print what it returns, if it is not None.

    The process ends as :func:`program` says.

    ``--debug`` shows the traceback of an error too, and at the end the CPU time of each phase.
    """
    argv = sys.argv[1:] if argv is None else argv
    prog = prog or Path(sys.argv[0]).name
    names = flags(config_class)
    sizes = [flag(n) for n in ("batch_size", "eval_batch_size", "image_size") if n in names]
    debug = "--debug" in argv
    with program(prog, debug=debug, sizes=sizes), _told_cpu_time() if debug else nullcontext():
        config = parse(config_class, argv, prog=prog, description=description)
        _check_paths(config)
        if (found := main(config)) is not None:
            print(found)


@contextmanager
def _told_cpu_time() -> Iterator[None]:
    """Print the CPU time of each phase to stderr at the end, in the main process."""
    with clocked() as clock:
        try:
            yield
        finally:
            if is_main_process():
                print(clock.table(), file=sys.stderr)


def _check_paths(config: "DataclassInstance") -> None:
    """Raise InputError for a path that is not there: torch, not yet imported, takes seconds."""
    for name in _INPUTS:
        if name == "initial_checkpoint" and getattr(config, "resume", False):
            continue  # a resumed run has its own weights
        given = getattr(config, name, None) or ()
        paths = given.values() if isinstance(given, dict) else given
        for path in (given,) if isinstance(given, str) else paths:
            if not path.startswith(HUB_PREFIX) and not Path(path).exists():
                raise InputError(f"There is no file or folder {path}: check the path.")


@dataclass(frozen=True)
class Command:
    """A sub-command: its configuration class and its function, as ``module:name``, and its help."""

    config: str
    function: str
    help: str


Commands = Mapping[str, "Command | Commands"]
"""Sub-commands by name, which may have sub-commands themselves."""


def run_command(prog: str, commands: Commands, argv: Sequence[str]) -> None:
    """Run the sub-command that the first word of ``argv`` names; ``--help`` lists them."""
    name = argv[0] if argv else ""
    command = commands.get(name)
    if isinstance(command, Mapping):
        run_command(f"{prog} {name}", command, argv[1:])
    elif command is not None:
        function, about = command.function, command.help
        run(
            lambda config: _load(function)(config),  # imports torch and all: --help does without
            _load(command.config),
            description=about,
            argv=argv[1:],
            prog=f"{prog} {name}",
        )
    elif name == "--version":
        print(f"{prog.split()[0]} {__version__}")
        raise SystemExit(0)
    elif name in ("", "-h", "--help"):
        print(f"usage: {prog} COMMAND [flags]\n")
        for each, command in commands.items():
            about = ", ".join(command) if isinstance(command, Mapping) else command.help
            print(f"  {each:12}{about.partition(chr(10))[0]}")
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        raise SystemExit(0 if name else 2)
    else:
        with program(prog, debug=False):
            meant = did_you_mean(name, commands)
            raise InputError(f"There is no command {name!r}{meant}; --help lists them all.")


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class _Parser(argparse.ArgumentParser):
    """Read any fields of a configuration class; those that are not given are left out."""

    def __init__(
        self, config_class: type[Any], prog: str | None = None, description: str = ""
    ) -> None:
        declared = flags(config_class)
        hints = {n: str if is_dataclass(f.type) else f.type for n, f in declared.items()}
        self.types = {n: get_args(h)[0] if NoneType in get_args(h) else h for n, h in hints.items()}
        self.positional = {n for n, f in declared.items() if f.metadata["positional"]}
        other_class = getattr(config_class, "reads_files_of", None)
        # The settings of another program, whose files this one reads, that are none of its own.
        self.passed_over = flags(other_class).keys() - declared.keys() if other_class else set()
        super().__init__(
            prog=prog,
            usage="%(prog)s" + " PATH ..." * bool(self.positional) + " [flags]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        about = "YAML file with values for the flags; may be repeated, the command line wins"
        self.add_argument("-c", "--config", metavar="FILE", action="append", help=about)
        groups = {title: self.add_argument_group(title) for title in GROUPS}
        for name, field in declared.items():
            settings = _settings(field, self.types[name])
            if name not in self.positional:
                settings["dest"], name = name, flag(name)
            groups[field.metadata["group"]].add_argument(name, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; --help lists all flags.")

    def values(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the words by field name, without those that are not given."""
        words = self._plain(argv)
        namespace, unknown = self.parse_known_args(words)
        if unknown:
            word, equals, _ = unknown[0].partition("=")
            if not word.startswith("-"):
                before = self._flag_before(words, unknown[0])
                if before in self.types and get_origin(self.types[before]) is dict:
                    its = f"a flag of its own: {flag(before)} {unknown[0]}"
                elif equals:
                    its = "a flag of its own: --test-data NAME=PATH"
                else:
                    its = "its flag: --data PATH"
                raise InputError(f"{unknown[0]!r} stands alone: write it behind {its}.")
            meant = self.meant(word.lstrip("-"))
            if word[2:].replace("-", "_") in self.positional:
                meant = ", what it names stands without one"
            elif word[2:].removeprefix("no-").replace("-", "_") in self.passed_over:
                meant = ", as it changes nothing here: leave it out"
            raise InputError(f"There is no flag {word}{meant}; --help lists them all.")
        return {n: tuple(v) if isinstance(v, list) else v for n, v in vars(namespace).items()}

    def _flag_before(self, words: Sequence[str], word: str) -> str:
        """Return the field of the last flag before a word, "" if there is none."""
        flags = [w.partition("=")[0] for w in words[: words.index(word)] if w.startswith("--")]
        return flags[-1].lstrip("-").replace("-", "_") if flags else ""

    def meant(self, name: str) -> str:
        """Return a hint: the flag that timm, or an earlier version, calls so, or one like it."""
        name = name.replace("-", "_")
        ours = OURS.get(name) if OURS.get(name) in self.types else None
        flags = [flag(ours)] if ours else [*map(flag, self.types), "--config", "--help"]
        return f" (did you mean {flags[0]}?)" if ours else did_you_mean(flag(name), flags)

    def _plain(self, argv: Sequence[str]) -> list[str]:
        """Return the words with dashes in the flags, and ``--no-NAME`` for ``--NAME false``."""
        switches = {flag(name) for name, hint in self.types.items() if hint is bool}
        words: list[str] = []
        for word in argv:
            head, equals, value = word.partition("=")
            if head.startswith("--"):
                head = head.replace("_", "-")
                word = head + equals + value
            elif words and words[-1] in switches and word.lower() in _SWITCH:
                head, value = words.pop(), word
            if head in switches and value.lower() in _SWITCH:
                word = head if _SWITCH[value.lower()] else f"--no-{head[2:]}"
            words.append(word)
        return words


class _Named(argparse.Action):
    """Collects the words NAME=PATH of a flag in a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        name, _, path = values.partition("=")
        paths = getattr(namespace, self.dest, {})
        if not (name and path):
            raise argparse.ArgumentError(self, f"got {values!r}, give NAME=PATH")
        if name in paths:
            raise argparse.ArgumentError(self, f"has the name {name!r} twice, give each its own")
        setattr(namespace, self.dest, paths | {name: path})


def _settings(field: "Field[Any]", hint: Any) -> dict[str, Any]:
    """Return what argparse needs to know of a field."""
    about = field.metadata["help"]
    decided_by = [by for by in _DEFAULTS if field.name in _DEFAULTS[by]]
    # Another program's setting may have the name of one of a recipe, and a default of its own.
    if decided_by and (decided_by != ["recipe"] or field.default is None):
        about += f" (default: {decided_by[0]})" * ("(default" not in about)
    elif isinstance(field.default, str | int | float) and field.default is not False:
        about += f" (default: {field.default})"
    if hint is bool:
        return {"help": about, "action": argparse.BooleanOptionalAction}
    kind = get_origin(hint) or hint
    if kind is Literal:
        return {"help": about, "choices": get_args(hint)}
    usual = {int: "INT", float: "FLOAT", dict: "NAME=PATH"}.get(kind, "NAME")
    settings = {"help": about, "metavar": field.metadata["metavar"] or usual}
    if field.metadata["positional"]:
        return settings | {"nargs": "*" if kind is tuple else "?"}
    if kind is tuple:
        return settings | {"nargs": "+", "action": "extend"}
    return settings | ({"action": _Named} if kind is dict else {"type": kind})


def _read_yaml(path: str, parser: _Parser) -> dict[str, Any]:
    """Read the values in a YAML file by field name, None for null.

    Raises:
        InputError: the file cannot be read, or has a key that is no flag.
    """
    from focus.runtime.yaml_files import load_yaml

    try:
        content = load_yaml(Path(path))
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path} cannot be read: {error}; give a YAML file.") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds no `name: value` lines: give it some.")
    if (version := content.pop("version", str(CONFIG_VERSION))) != str(CONFIG_VERSION):
        raise InputError(
            f"--config {path} has version {version}, not {CONFIG_VERSION}: "
            "read it with the version of focus that wrote it, or write it anew."
        )
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in values:
            raise InputError(f"--config {path} has {name} twice, with - and with _: remove one.")
        values[name] = value
    if parser.passed_over & values.keys():
        # A file of another program, whose output is somewhere else.
        dropped = parser.passed_over | {"output"}
        values = {name: value for name, value in values.items() if name not in dropped}
    words: list[str] = []
    for name, value in values.items():
        if name not in parser.types:
            meant = parser.meant(name)
            raise InputError(f"--config {path} has an unknown key {name!r}{meant}; see --help.")
        shape = _SHAPES.get(type(value))
        if shape and get_origin(parser.types[name]) is not shape:
            raise InputError(f"--config {path}: {name} cannot be {value!r}; see --help.")
        parts = value if shape else [] if value in _NULL else [value]
        if isinstance(value, dict):
            parts = [f"{key}={each}" for key, each in value.items()]
        head = "" if name in parser.positional else f"{flag(name)}="
        words += [f"{head}{part}" for part in parts]
    return dict.fromkeys(values) | parser.values(words)


def _overlaid(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` and ``over``, which wins.

    Settings that another loss or recipe than that of ``over`` decided are dropped.
    """
    for choice, decided in _DECIDED_BY.items():
        if decided <= values.keys() and over.get(choice, values[choice]) != values[choice]:
            values = {name: value for name, value in values.items() if name not in decided}
    return {**values, **over}


OTHER_NAMES: dict[str, tuple[str, str]] = {
    "data": ("data-dir", "train_file"),
    "model": ("model", "model_name_or_path"),
    "image_size": ("img-size", ""),
    "initial_checkpoint": ("initial-checkpoint", ""),
    "epochs": ("epochs", "num_train_epochs"),
    "batch_size": ("batch-size", "per_device_train_batch_size"),
    "eval_batch_size": ("validation-batch-size", "per_device_eval_batch_size"),
    "grad_accum_steps": ("grad-accum-steps", "gradient_accumulation_steps"),
    "opt": ("opt", "optim"),
    "lr": ("lr", "learning_rate"),
    "momentum": ("momentum", ""),
    "weight_decay": ("weight-decay", "weight_decay"),
    "layer_decay": ("layer-decay", ""),
    "sched": ("sched", "lr_scheduler_type"),
    "warmup": ("warmup-epochs", "warmup_ratio"),
    "step_epochs": ("decay-epochs", ""),
    "step_gamma": ("decay-rate", ""),
    "clip_grad": ("clip-grad", "max_grad_norm"),
    "model_ema_decay": ("model-ema-decay", ""),
    "label_smoothing": ("smoothing", "label_smoothing_factor"),
    "eval_metric": ("eval-metric", "metric_for_best_model"),
    "patience": ("", "early_stopping_patience"),
    "seed": ("seed", "seed"),
    "mixed_precision": ("amp", "bf16"),
    "channels_last": ("channels-last", ""),
    "compile": ("torchcompile", "torch_compile"),
    "compile_mode": ("torchcompile-mode", "torch_compile_mode"),
    "grad_checkpointing": ("grad-checkpointing", "gradient_checkpointing"),
    "sync_bn": ("sync-bn", ""),
    "device": ("device", "use_cpu"),
    "workers": ("workers", "dataloader_num_workers"),
    "output": ("output", "output_dir"),
    "name": ("experiment", "run_name"),
    "resume": ("resume", "resume_from_checkpoint"),
    "checkpoint_steps": ("recovery-interval", "save_steps"),
    "checkpoints_kept": ("checkpoint-hist", "save_total_limit"),
    "log_steps": ("log-interval", "logging_steps"),
    "report_to": ("log-wandb", "report_to"),
}
"""What timm's ``train.py`` and Hugging Face's ``TrainingArguments`` call a field of TrainConfig.

"" stands for none. The table in docs/training.md is made of this one.
"""


def _by_other_name() -> dict[str, str]:
    fields = {  # names of earlier versions
        "heatmaps": "human_maps",
        "optimizer": "opt",
        "schedule": "sched",
        "ema_decay": "model_ema_decay",
    }
    for field, other_names in OTHER_NAMES.items():
        for name in other_names:
            if name:
                fields[name.replace("-", "_")] = field
    return fields


OURS = _by_other_name()
"""The field of TrainConfig by each of its other names, those of earlier versions among them."""
