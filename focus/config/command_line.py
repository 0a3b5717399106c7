"""The command line and the configuration file of a program, from its configuration class, by tyro.

Dashes and underscores are alike, flags are never abbreviated, and every error is one sentence. A
value in a file is read as the same text on the command line is, so ``mixed_precision: no`` is not a
boolean and ``lr: 1e-3`` is a number; ``null`` leaves a setting as it is.
"""

import io
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields, make_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from focus.config.options import GROUPS, flag
from focus.config.recipes import Recipe
from focus.config.train import CONFIG_VERSION, SET_BY_LOSS
from focus.errors import InputError, did_you_mean
from focus.runtime.machine import is_main_process
from focus.runtime.program import program

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_SWITCH = {
    **dict.fromkeys(("true", "yes", "on"), "True"),
    **dict.fromkeys(("false", "no", "off"), "False"),
}
_DECIDED_BY = {"loss": SET_BY_LOSS.keys(), "recipe": {each.name for each in fields(Recipe)}}


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
    import tyro  # not before a program is run: focus.config is part of the library, too

    types = _types(config_class)
    words, given, files = _split(sys.argv[1:] if argv is None else argv, types)
    values: dict[str, Any] = {}
    for path in files:
        values = _overlaid(values, more := read_yaml(path, types)) | more
    values = {n: v for n, v in _overlaid(values, given).items() if n not in given}
    alone = not words or words[0].startswith("-")  # no paths stand before the flags
    from_files, _, _ = _split(list(_as_words(values, config_class, alone)), types)
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            found, unknown = tyro.cli(
                _options(config_class),
                prog=prog or Path(sys.argv[0]).name,
                description=description,
                args=[*from_files, *words],
                config=(tyro.conf.FlagConversionOff, tyro.conf.DisallowNone),
                return_unknown_args=True,
                console_outputs=is_main_process(),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        said = _first_sentence(errors.getvalue())
        raise InputError(f"The command line: {said}; --help lists all flags.") from None
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise InputError(f"{word!r} stands alone: write it behind its flag, as in --data PATH.")
        meant = did_you_mean(word.replace("_", "-"), [*map(flag, types), "--config", "--help"])
        raise InputError(f"There is no flag {word}{meant}; --help lists them all.")
    groups = [vars(group) for title, group in vars(found).items() if title != "file"]
    return config_class(**{name: value for group in groups for name, value in group.items()})


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
    """Parse the command line, call ``main``, and end the process as :func:`program` does.

    ``--debug`` shows the traceback of an error too.
    """
    argv = sys.argv[1:] if argv is None else argv
    prog = prog or Path(sys.argv[0]).name
    with program(prog, debug="--debug" in argv):
        main(parse(config_class, argv, prog=prog, description=description))


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
    elif name in ("", "-h", "--help"):
        print(f"usage: {prog} COMMAND [flags]\n")
        for each, command in commands.items():
            about = ", ".join(command) if isinstance(command, Mapping) else command.help
            print(f"  {each:12}{about.partition(chr(10))[0]}")
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        raise SystemExit(0 if name else 2)
    else:
        meant = did_you_mean(name, commands)
        with program(prog, debug=False):
            raise InputError(f"There is no command {name!r}{meant}; --help lists them all.")


def read_yaml(path: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """Read the values in a YAML file by field name: texts, lists of texts, or texts by name.

    Raises:
        InputError: the file cannot be read, or has a key that is none of ``types``.
    """
    import yaml

    class Loader(yaml.BaseLoader):
        """Reads each scalar but a bare null as the text that it is."""

    null = "tag:yaml.org,2002:null"
    Loader.add_implicit_resolver(null, re.compile("~|null|Null|NULL|$"), ["~", "n", "N", ""])
    Loader.add_constructor(null, lambda loader, node: None)
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--config {path} cannot be read: {reason}; give a YAML file.") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds no `name: value` lines: give it some.")
    if (version := content.pop("version", str(CONFIG_VERSION))) != str(CONFIG_VERSION):
        raise InputError(f"--config {path} has version {version}, not {CONFIG_VERSION}.")
    values = {str(key).replace("-", "_"): value for key, value in content.items()}
    for name, value in values.items():
        if name not in types:
            meant = did_you_mean(name, types)
            raise InputError(f"--config {path} has an unknown key {name!r}{meant}; see --help.")
        shape = {tuple: (list, str), dict: (dict,)}.get(get_origin(types[name]), (str,))
        if not isinstance(value, (*shape, NoneType)):
            raise InputError(f"--config {path}: {name} cannot be {value!r}; see --help.")
    return values


def _types(config_class: type[C]) -> dict[str, Any]:
    """Return the type of each field, ``int`` for ``int | None``."""
    hints = get_type_hints(config_class).items()
    return {n: get_args(hint)[0] if NoneType in get_args(hint) else hint for n, hint in hints}


def _split(
    argv: Sequence[str], types: Mapping[str, Any]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Split a command line into tyro's words, the values by field name, and the files of --config.

    A switch may stand alone, as ``--no-NAME``, or with true or false; ``NAME=PATH`` becomes two
    words.
    """
    words: list[str] = []
    files: list[str] = []
    given: dict[str, str] = {}
    named: set[tuple[str, str]] = set()
    rest = deque(argv)
    while rest:
        word = rest.popleft()
        head, equals, value = word.partition("=")
        name = "config" if head == "-c" else head[2:].replace("-", "_")
        if not head.startswith("--") and head != "-c":
            words.append(word)
            continue
        if types.get(name.removeprefix("no_")) is bool:
            if name.startswith("no_"):
                name, value = name[3:], "false"
            elif not equals:
                value = rest.popleft() if rest and rest[0].lower() in _SWITCH else "true"
            words.append(f"{flag(name)}={_SWITCH.get(value.lower(), value)}")
        elif name == "config" or get_origin(types.get(name)) is dict:
            value = value if equals or not rest else rest.popleft()
            key, equals, path = value.partition("=")
            if name == "config":
                files.append(value)
            elif not (key and path):
                raise InputError(f"{head} got {value!r}: give NAME=PATH.")
            elif (name, key) in named:
                raise InputError(f"{head} has the name {key!r} twice: give each its own.")
            else:
                named.add((name, key))
                words += [flag(name), key, path]
        else:
            words.append(word)
            value = value if equals or not rest else rest[0]
        given[name] = value
    return words, given, files


def _overlaid(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what another loss or recipe than that of ``over`` has decided."""
    kept = dict(values)
    for choice, decided in _DECIDED_BY.items():
        if decided <= values.keys() and over.get(choice, values[choice]) != values[choice]:
            kept = {name: value for name, value in kept.items() if name not in decided}
    return kept


def _as_words(values: Mapping[str, Any], config_class: type[C], before: bool) -> Iterator[str]:
    """Yield the values of a file as words. before: also those that stand before all flags."""
    positional = {f.name for f in fields(config_class) if f.metadata["positional"]}
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        if name in positional:
            yield from parts if before else ()
        elif isinstance(value, dict):
            yield from (f"{flag(name)}={key}={path}" for key, path in value.items())
        elif value is not None:
            yield from (f"{flag(name)}={part}" for part in parts)


def _options(config_class: type[C]) -> Any:
    """Return a class with the fields of ``config_class`` in groups, for tyro's --help."""
    import tyro

    markers: Any = tyro.conf  # which mypy takes for types
    arg = tyro.conf.arg
    hints: dict[str, Any] = get_type_hints(config_class)
    types = _types(config_class)
    said = "YAML file with values for the flags; may be repeated, the command line wins"
    file = arg(help=said, metavar="FILE", aliases=("-c",), help_behavior_hint="")
    groups: dict[str, list[Any]] = {"file": [("config", Annotated[str, file], "")]}
    groups |= {title: [] for title in GROUPS}
    for f in fields(config_class):
        hint = hints[f.name]
        if f.metadata["positional"]:
            hint = markers.Positional[hint]
        elif get_origin(hint) in (tuple, dict) and not f.metadata["many"]:
            hint = markers.UseAppendAction[hint]
        plain = isinstance(f.default, str | int | float) and f.default is not False
        said = f"(default: {f.default})" if plain else ""
        metavar = f.metadata["metavar"] or ("[true|false]" if types[f.name] is bool else None)
        option = arg(help=f.metadata["help"], metavar=metavar, help_behavior_hint=said)
        default = field(default=f.default, default_factory=f.default_factory)
        groups[f.metadata["group"]].append((f.name, Annotated[hint, option], default))
    # With a help of its own, tyro looks for none in the source, which takes long.
    about = arg(help=" ")
    made: Any = {title: make_dataclass(title, members) for title, members in groups.items()}
    sections = [(n, markers.OmitArgPrefixes[Annotated[each, about]]) for n, each in made.items()]
    return make_dataclass("Options", sections)


def _first_sentence(box: str) -> str:
    """Return what the box says in which tyro prints an error, without its title and its advice."""
    lines = [line.strip(" │─-") for line in box.splitlines()[1:]]
    text = "\n".join(lines).strip().partition("\n\n")[0]
    return " ".join(text.split()).rstrip(".")


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
