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
"""The words for the values of a switch."""

_TYPES_IN_FILES: dict[type, type] = {list: tuple, dict: dict}
"""The type of a setting by that of its value in a YAML file, where it is no text."""

_INPUTS = (
    "data",
    "data_root",
    "test_data",
    "test_real",
    "human_maps",
    "initial_checkpoint",
    "run",
    "scores",
    "people",
    "compare",
    "paths",
    "check_images",
)
"""The settings that name files or folders to read."""

_NULL = ("", "~", "null", "Null", "NULL")
"""The words of a YAML file that leave a setting as it is."""

_OF_RECIPE = RECIPES["paper"].keys()

_DECIDED_BY = {"loss": SET_BY_LOSS, "recipe": _OF_RECIPE | {"cached_features"}}
"""The settings that a loss or a recipe decides: another one drops those that were written out."""

_DEFAULTS = {"loss": LOSS_SETTINGS, "recipe": _OF_RECIPE}
"""The flags that ``--help`` says to have their default from the loss or the recipe."""


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
    parser = _Parser(config_class, prog, description)
    return _made(config_class, _values(parser, config_class, argv))


def _values(
    parser: "_Parser", config_class: type[Any], argv: Sequence[str] | None
) -> dict[str, Any]:
    """Return the settings of the command line and its files by the names of their flags."""
    typed = parser.values(sys.argv[1:] if argv is None else argv)
    values = _of_run(typed, parser) if config_class is TrainConfig else {}
    for path in typed.pop("config", ()):
        values = _overlaid(values, _read_yaml(path, parser))
    values = _overlaid(values, typed)
    return {name: value for name, value in values.items() if value is not None}


def _made(config_class: type[C], values: Mapping[str, Any]) -> C:
    make = getattr(config_class, "of", config_class)  # where one is nested
    made: C = make(**values)
    return made


def _of_run(typed: Mapping[str, Any], parser: "_Parser") -> dict[str, Any]:
    """Return the settings of the run that ``--resume --name NAME`` names, or none.

    typed: The settings of the command line.
    """
    if not typed.get("resume") or "name" not in typed:
        return {}
    run_folder = Path(typed.get("output", TrainConfig.output), typed["name"])
    config_file = run_folder / "config.yaml"
    if not config_file.is_file():
        return {}
    # The folder may have been moved, and its parent is the output now.
    return _read_yaml(str(config_file), parser) | {"output": str(run_folder.parent)}


def train_settings(words_by_name: Mapping[str, str]) -> dict[str, Any]:
    """Return settings of focus train that differ from its defaults.

    words_by_name: What would stand behind the flags of the command line; it is read likewise.
    """
    words = [f"{flag(name)}={word}" for name, word in words_by_name.items()]
    values = _values(_Parser(TrainConfig), TrainConfig, words)
    TrainConfig.of(**values)  # raises for what contradicts
    defaults = flat(TrainConfig())
    return {
        name: values[name]
        for name, default in defaults.items()
        if values.get(name, default) != default
    }


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
        outcome = main(config)
        if outcome is not None:
            print(outcome)


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
        value = getattr(config, name, None) or ()
        paths = value
        if isinstance(value, dict):
            paths = value.values()
        elif isinstance(value, str):
            paths = (value,)
        for path in paths:
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
        function = command.function
        run(
            lambda config: _load(function)(config),  # imports torch and all: --help does without
            _load(command.config),
            description=command.help,
            argv=argv[1:],
            prog=f"{prog} {name}",
        )
    elif name == "--version":
        print(f"{prog.split()[0]} {__version__}")
        raise SystemExit(0)
    elif name in ("", "-h", "--help"):
        print(f"usage: {prog} COMMAND [flags]\n")
        for command_name, command in commands.items():
            text = ", ".join(command) if isinstance(command, Mapping) else command.help
            first_line, _, _ = text.partition("\n")
            print(f"  {command_name:12}{first_line}")
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        raise SystemExit(0 if name else 2)
    else:
        with program(prog, debug=False):
            meant = did_you_mean(name, commands)
            raise InputError(f"There is no command {name!r}{meant}; --help lists them all.")


def _load(reference: str) -> Any:
    """Import what ``module:name`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


class _Parser(argparse.ArgumentParser):
    """Read any fields of a configuration class; those that are not given are left out.

    types: The type of each field, of an optional one that of its value. positional: The fields
    whose words stand without a flag. passed_over: The settings of another program, whose files this
    one reads, that are none of its own.
    """

    def __init__(
        self, config_class: type[Any], prog: str | None = None, description: str = ""
    ) -> None:
        declared = flags(config_class)
        self.types = {name: _type_of_value(field) for name, field in declared.items()}
        self.positional = {name for name, field in declared.items() if field.metadata["positional"]}
        self.passed_over: set[str] = set()
        other_class = getattr(config_class, "reads_files_of", None)
        if other_class is not None:
            self.passed_over = flags(other_class).keys() - declared.keys()
        super().__init__(
            prog=prog,
            usage="%(prog)s PATH ... [flags]" if self.positional else "%(prog)s [flags]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            action="append",
            help="YAML file with values for the flags; may be repeated, the command line wins",
        )
        groups = {title: self.add_argument_group(title) for title in GROUPS}
        for name, field in declared.items():
            settings = _settings(field, self.types[name])
            group = groups[field.metadata["group"]]
            if name in self.positional:
                group.add_argument(name, **settings)
            else:
                group.add_argument(flag(name), dest=name, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; --help lists all flags.")

    def values(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the values of the words by field name, without those that are not given."""
        words = self._plain(argv)
        namespace, unknown = self.parse_known_args(words)
        if unknown:
            if unknown[0].startswith("-"):
                raise self._unknown_flag(unknown[0])
            raise self._stray_word(unknown[0], words)
        values = vars(namespace)
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }

    def _stray_word(self, word: str, words: Sequence[str]) -> InputError:
        """Return the error of a word that stands behind no flag; words: All of them."""
        before = self._flag_before(words, word)
        if before in self.types and get_origin(self.types[before]) is dict:
            advice = f"a flag of its own: {flag(before)} {word}"
        elif "=" in word:
            advice = "a flag of its own: --test-data NAME=PATH"
        else:
            advice = "its flag: --data PATH"
        return InputError(f"{word!r} stands alone: write it behind {advice}.")

    def _unknown_flag(self, word: str) -> InputError:
        """Return the error of a flag that there is not; word: The flag, perhaps with its value."""
        unknown, _, _ = word.partition("=")
        if unknown[2:].replace("-", "_") in self.positional:
            hint = ", what it names stands without one"
        elif unknown[2:].removeprefix("no-").replace("-", "_") in self.passed_over:
            hint = ", as it changes nothing here: leave it out"
        else:
            hint = self.meant(unknown.lstrip("-"))
        return InputError(f"There is no flag {unknown}{hint}; --help lists them all.")

    def _flag_before(self, words: Sequence[str], word: str) -> str:
        """Return the field of the last flag before a word, "" if there is none."""
        for before in reversed(words[: words.index(word)]):
            if before.startswith("--"):
                return before.partition("=")[0].lstrip("-").replace("-", "_")
        return ""

    def meant(self, name: str) -> str:
        """Return a hint: the flag that timm, or an earlier version, calls so, or one like it."""
        name = name.replace("-", "_")
        ours = OURS.get(name)
        if ours in self.types:
            return f" (did you mean {flag(ours)}?)"
        flags = [*map(flag, self.types), "--config", "--help"]
        return did_you_mean(flag(name), flags)

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


def _type_of_value(field: "Field[Any]") -> Any:
    """Return the type of a field's value: of an optional one without None, of a loss its name's."""
    if is_dataclass(field.type):
        return str
    alternatives = get_args(field.type)
    return alternatives[0] if NoneType in alternatives else field.type


class _CollectNamedPaths(argparse.Action):
    """Collect the words NAME=PATH of a flag in a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        name, _, path = values.partition("=")
        paths = getattr(namespace, self.dest, {})
        if not (name and path):
            raise argparse.ArgumentError(self, f"got {values!r}, give NAME=PATH")
        if name in paths:
            raise argparse.ArgumentError(self, f"has the name {name!r} twice, give each its own")
        setattr(namespace, self.dest, paths | {name: path})


def _settings(field: "Field[Any]", hint: Any) -> dict[str, Any]:
    """Return what argparse needs to know of a field; hint: The type of its value."""
    settings: dict[str, Any] = {"help": _help_with_default(field)}
    if hint is bool:
        return settings | {"action": argparse.BooleanOptionalAction}
    kind = get_origin(hint) or hint
    if kind is Literal:
        return settings | {"choices": get_args(hint)}

    metavar = {int: "INT", float: "FLOAT", dict: "NAME=PATH"}.get(kind, "NAME")
    settings["metavar"] = field.metadata["metavar"] or metavar
    if field.metadata["positional"]:
        return settings | {"nargs": "*" if kind is tuple else "?"}
    if kind is tuple:
        return settings | {"nargs": "+", "action": "extend"}
    if kind is dict:
        return settings | {"action": _CollectNamedPaths}
    return settings | {"type": kind}


def _help_with_default(field: "Field[Any]") -> str:
    """Return the help of a field, which ends in its default, or in what decides it."""
    text: str = field.metadata["help"]
    decided_by = [name for name in _DEFAULTS if field.name in _DEFAULTS[name]]
    # Another program's setting may have the name of one of a recipe, and a default of its own.
    if decided_by and (decided_by != ["recipe"] or field.default is None):
        return text if "(default" in text else f"{text} (default: {decided_by[0]})"
    if isinstance(field.default, str | int | float) and field.default is not False:
        return f"{text} (default: {field.default})"
    return text


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
    version = content.pop("version", str(CONFIG_VERSION))
    if version != str(CONFIG_VERSION):
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
        needed_type = _TYPES_IN_FILES.get(type(value))
        if needed_type and get_origin(parser.types[name]) is not needed_type:
            raise InputError(f"--config {path}: {name} cannot be {value!r}; see --help.")
        before = "" if name in parser.positional else f"{flag(name)}="
        words += [f"{before}{word}" for word in _words_of(value)]
    return dict.fromkeys(values) | parser.values(words)


def _words_of(value: Any) -> list[Any]:
    """Return the words of the command line that stand for a value of a YAML file."""
    if isinstance(value, dict):
        return [f"{key}={path}" for key, path in value.items()]
    if isinstance(value, list):
        return value
    return [] if value in _NULL else [value]


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
