"""The command line and the configuration file of a program, from its configuration class.

jsonargparse gives the help. All else is done here: dashes and underscores are alike, flags are
never abbreviated, an unknown flag, key or choice is answered with the one that was probably meant,
and every error is one sentence. A value in a file is read as the same text on the command line is,
so ``mixed_precision: no`` is not a boolean and ``epochs: 1:30`` not 90; a bare ``null`` is none.
"""

import sys
from argparse import RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from focus.config.flags import GROUPS, Words, flag
from focus.config.recipes import Recipe
from focus.config.train import AS_THE_LOSS_SAYS, CONFIG_VERSION, EvaluateConfig, TrainConfig
from focus.config.typed import typed_value
from focus.config.use import ExplainConfig, ExportConfig
from focus.errors import InputError, did_you_mean
from focus.runtime.machine import is_main_process
from focus.runtime.program import check_checkout, program

C = TypeVar("C", TrainConfig, EvaluateConfig, ExplainConfig, ExportConfig)

# What Hugging Face's trainer and timm's script call them, where no word is like ours.
_ELSEWHERE = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "max_grad_norm": "clip_grad",
    "dataloader_num_workers": "workers",
    "save_steps": "checkpoint_steps",
    "opt": "optimizer",
    "amp": "mixed_precision",
    "fp16": "mixed_precision",
    "bf16": "mixed_precision",
    "b": "batch_size",
    "j": "workers",
    "data_dir": "data",
    "experiment": "name",
    "model_ema": "ema_decay",
    "warmup_epochs": "warmup",
    "log_interval": "log_steps",
    "checkpoint_hist": "checkpoints_kept",
}

_DECIDED_BY = {"loss": AS_THE_LOSS_SAYS.keys(), "recipe": {f.name for f in fields(Recipe)}}
_NULL = ("", "~", "null", "Null", "NULL")  # of YAML


def parse(
    config_class: type[C],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
) -> C:
    """Read the command line (default: the process's) and the files that ``--config`` names.

    The command line wins over the files, a later file over an earlier one. The ``config.yaml`` of a
    run spells out all that its loss and its recipe decided: beside another one, that goes. Of a
    file that somebody wrote, what stands there stays.

    Raises:
        InputError: something on the command line or in a file cannot be used.
        SystemExit: with code 0, after ``--help``.
    """
    types = {name: _bare(hint) for name, hint in get_type_hints(config_class).items()}
    words = sys.argv[1:] if argv is None else argv
    flags, files = _read_argv(words, types, _nargs_of(config_class))
    if flags.pop("help", None):
        if is_main_process():
            _parser(config_class, prog or Path(sys.argv[0]).name, description).print_help()
        raise SystemExit(0)
    undecided = {field.name for field in fields(config_class) if field.default is None}
    values: dict[str, Any] = {}
    for path in files:
        found = _read_file(path, types).items()
        typed = {
            name: None
            if value is None and name in undecided
            else typed_value(types[name], value, f"{name} in {path}")
            for name, value in found
        }
        values = _overlaid(values, typed)
    typed = {name: typed_value(types[name], value, flag(name)) for name, value in flags.items()}
    return config_class(**_overlaid(values, typed))


def _overlaid(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field name, those of ``over`` winning."""
    gone = {
        name
        for choice, decided in _DECIDED_BY.items()
        if decided <= under.keys() and over.get(choice, under[choice]) != under[choice]
        for name in decided
    }
    return {name: value for name, value in under.items() if name not in gone} | dict(over)


def load_config(config_class: type[C], path: str | Path) -> C:
    """The configuration in a YAML file, as ``--config`` reads it."""
    return parse(config_class, [f"--config={path}"])


def run(
    main: Callable[[C], None],
    config_class: type[C],
    *,
    description: str = "",
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse, call ``main``, and end the process as :func:`program` does.

    ``--debug`` shows the traceback of an error too. A script of another checkout than the one that
    this package is of is an error: that one's code would run in its place.
    """
    argv = sys.argv[1:] if argv is None else argv
    prog = prog or Path(sys.argv[0]).name
    with program(prog, debug="--debug" in argv):
        check_checkout()
        config = parse(config_class, argv, prog=prog, description=description)
    with program(prog, debug=config.debug, flags=[field.name for field in fields(config)]):
        main(config)


def command(prog: str, about: Mapping[str, str], arguments: Sequence[str], more: str = "") -> str:
    """Which of a program's commands the first argument names.

    Without one, or after ``--help``, it prints what there are and ends the process.

    Args:
        prog: the program's name.
        about: what each command does, in a few words.
        arguments: the command line.
        more: the last line of the help.

    Raises:
        InputError: there is no such command.
        SystemExit: with code 0 after ``--help``, 2 without a command.
    """
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        width = max(map(len, about)) + 2
        print(f"usage: {prog} COMMAND [flags]\n")
        for each, words in about.items():
            print(f"  {each:{width}}{words}")
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        if more:
            print(more)
        raise SystemExit(0 if name else 2)
    if name not in about:
        raise InputError(
            f"There is no command {name!r}{did_you_mean(name, about)}: it is one of "
            f"{', '.join(about)}."
        )
    return name


def _bare(hint: Any) -> Any:
    """``int`` for ``int | None``."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    return hint


def _nargs_of(config_class: type[C]) -> dict[str, Words]:
    """How many words each field's flag takes."""
    return {f.name: f.metadata["words"] for f in fields(config_class)}


def _parser(config_class: type[C], prog: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        usage=f"%(prog)s {'PATH ... ' * ('positional' in _nargs_of(config_class).values())}[flags]",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-c",
        "--config",
        type=str,
        metavar="FILE",
        help="YAML file with values for the flags; may be repeated, the command line wins",
    )
    hints = get_type_hints(config_class)
    by_group = sorted(fields(config_class), key=lambda f: GROUPS.index(f.metadata["group"]))
    for title, members in groupby(by_group, key=lambda f: f.metadata["group"]):
        group = parser.add_argument_group(title)
        for f in members:
            plain = isinstance(f.default, str | int | float) and f.default is not False
            group.add_argument(
                flag(f.name),
                type=hints[f.name],
                default=None,
                metavar=f.metadata["metavar"] or _metavar(_bare(hints[f.name])),
                help=f.metadata["help"] + (f" (default: {f.default})" if plain else ""),
            )
    return parser


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return {bool: "[true|false]", int: "N", float: "X"}.get(kind, "TEXT")


def _read_argv(
    argv: Sequence[str], types: dict[str, Any], nargs: dict[str, Words]
) -> tuple[dict[str, Any], list[str]]:
    """The values by field name, as text, and the configuration files.

    nargs: how many words each flag takes.
    """
    positional = next((name for name, words in nargs.items() if words == "positional"), None)
    given: dict[str, Any] = {}
    files: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        head, equals, value = word.partition("=")
        head = {"-c": "--config", "-h": "--help"}.get(head, head)
        name = head[2:].replace("-", "_")
        if not head.startswith("-") and positional:
            given.setdefault(positional, []).append(word)
            continue
        if not head.startswith("-"):
            raise InputError(f"{word!r} stands alone: write it behind its flag, as in --data PATH.")
        if head == "--help":
            given["help"] = True
            continue
        if head.startswith("--no") and types.get(name[3:]) is bool and not equals:
            name, equals, value = name[3:], "=", "false"
        kind = str if name == "config" else types.get(name)
        if not head.startswith("--") or kind is None:
            known = [n.replace("_", "-") for n in (*types, "config", "help")]
            asked = head.lstrip("-").replace("-", "_")
            meant = did_you_mean(_ELSEWHERE.get(asked, asked).replace("_", "-"), known, "--")
            raise InputError(f"There is no flag {head}{meant}; --help lists them all.")
        if not equals:
            follows = bool(words) and not words[0].startswith("--") and words[0] not in ("-c", "-h")
            if kind is bool and positional:  # what follows a switch is rather positional
                follows = follows and words[0] in ("true", "false")
            value = words.popleft() if follows else "true" if kind is bool else ""
        if not value:
            raise InputError(f"{head} needs a value.")
        if name == "config":
            files.append(value)
        elif get_origin(kind) is tuple:
            values = given.setdefault(name, [])
            values.append(value)
            while nargs[name] == "many" and words and not words[0].startswith("-"):
                values.append(words.popleft())
        elif get_origin(kind) is dict:
            add_named(given.setdefault(name, {}), head, value)
        else:
            given[name] = value
    return given, files


def add_named(given: dict[str, str], flag: str, value: str) -> None:
    """Put the NAME=PATH of a flag into ``given``.

    Raises InputError for what is no NAME=PATH, and for a name that is there.
    """
    name, equals, path = value.partition("=")
    if not (name and equals and path):
        raise InputError(f"{flag} got {value!r}: give NAME=PATH.")
    if name in given:
        raise InputError(f"{flag} has the name {name!r} twice: give each its own.")
    given[name] = path


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar but a bare null as the text it is, and refuses a key that stands twice."""

    def construct_scalar(self, node: Any) -> Any:
        bare = node.style is None
        return None if bare and node.value in _NULL else super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_file(path: str, types: dict[str, Any]) -> dict[str, Any]:
    """The values in a YAML file by field name, as text."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_TextLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise InputError(
            f"--config {path} cannot be read: {reason}; give a file of `name: value` lines."
        ) from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(
            f"--config {path} is not valid YAML{line}: {error.problem}; fix the line."
        ) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config {path} is not valid YAML: {reason}; fix the file.") from error
    except (RecursionError, TypeError) as error:
        raise InputError(
            f"--config {path} is nested too deeply, or has a list as a key: write `name: value` "
            "lines."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"--config {path} holds no `name: value` lines: give it some, or leave the flag out."
        )
    if "compute_environment" in content:
        raise InputError(
            f"--config {path} is a file of Accelerate's: give it to accelerate launch, by "
            f"--config_file {path} before the program."
        )
    version = content.pop("version", str(CONFIG_VERSION))
    if version != str(CONFIG_VERSION):
        raise InputError(
            f"--config {path} has version {version}, this program reads version {CONFIG_VERSION}: "
            "use the version that wrote it."
        )
    values: dict[str, Any] = {}
    spelt: dict[str, str] = {}  # how the file has each
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in types:
            meant = did_you_mean(_ELSEWHERE.get(name, name), types)
            raise InputError(
                f"{path} has an unknown key {key!r}{meant}: drop it, or take one of --help."
            )
        if name in spelt:
            raise InputError(
                f"--config {path} has both {spelt[name]!r} and {key!r}, which are one setting: "
                "drop one of them."
            )
        spelt[name] = key
        values[name] = (
            [value] if get_origin(types[name]) is tuple and isinstance(value, str) else value
        )
    return values
