"""Read the PTX of a kernel, and compile it to Python functions."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.ptx.arithmetic import FUNCTIONS
from bench.ptx.errors import UnknownInstruction
from bench.ptx.translate import DTYPES, Statement, Translator, read_statement

_NOT_CODE = re.compile(r"//.*|^\s*\.(loc|file|pragma|reg)\s.*$|^\s*[{}]\s*$", re.M)
_LABEL_OR_END = re.compile(r";|(\$?[\w$]+:)(?=\s)")
_BRANCHES = ("bra", "bra.uni")
_ENDS_A_CHUNK = re.compile(r"bra(\.uni)?|ret|exit|bar\.sync")
_TOUCHES_MEMORY = re.compile(
    r"(ld\.(global|shared)|st\.|atom|cp\.async|ldmatrix|stmatrix|bar|fence).*"
)


class Chunk(NamedTuple):
    """Statements that are executed together, as a function of the threads, for all or of a mask.

    end: "branch", "barrier", "exit", or "next", where the next chunk follows; predicate: the
    register of a branch, None without one, whose negation is taken if ``negated``; target: the
    chunk that it leads to; statement: the number of the last.
    """

    of_all: Callable[..., None]
    of_mask: Callable[..., None]
    end: str
    predicate: int | None
    negated: bool
    target: int
    statement: int
    opcodes: Counter[str]


class Program:
    """A kernel. fine: chunks end after each access of memory, so that others' turn may come."""

    def __init__(self, text: str, fine: bool = False) -> None:
        entry = re.search(r"\.entry\s+(\w+)\((.*?)^\{\n(.*?)^\}", text, re.S | re.M)
        if entry is None:
            raise UnknownInstruction("the text has no kernel that the interpreter can read")
        self.name, head, body = entry.groups()
        self.parameters = re.findall(r"\.param\s+\.\w+[^,\n]*?(\w+)(?=,|\n)", head)
        threads = re.search(r"\.reqntid\s+(\d+)", head)
        self.threads = int(threads[1]) if threads else 0
        self.statements, labels = _read(body)
        translator = Translator(self.name, self.parameters)
        starts = _starts(self.statements, labels, fine)
        chunk_of = {start: number for number, start in enumerate(starts)}
        targets = {label: chunk_of.get(statement, -1) for label, statement in labels.items()}
        lines: list[str] = []
        ends: list[tuple[str, int | None, bool, int, int, Counter[str]]] = []
        for number, (start, stop) in enumerate(
            zip(starts, [*starts[1:], len(self.statements)], strict=True)
        ):
            span = range(start, stop)
            for name, masked in (("of_all", False), ("of_mask", True)):
                lines.append(f"def {name}{number}(S, R, m):")
                for i in span:
                    if not _ENDS_A_CHUNK.fullmatch(self.statements[i].opcode):
                        translated = translator.lines(i, self.statements[i], masked)
                        lines += [f"    {line}" for line in translated]
                lines.append("    return")
            opcodes = Counter(self.statements[i].opcode for i in span)
            ends.append((*self._end(stop - 1, translator, targets), stop - 1, opcodes))
        names: dict[str, Any] = {"np": np, "where": np.where, **FUNCTIONS, **translator.constants}
        exec(compile("\n".join(lines), self.name, "exec"), names)
        self.chunks = [
            Chunk(names[f"of_all{number}"], names[f"of_mask{number}"], *end)
            for number, end in enumerate(ends)
        ]
        self.dtypes = translator.dtypes
        self.shared_unit = _shared_unit(self.statements)

    def _end(
        self, number: int, translator: Translator, targets: dict[str, int]
    ) -> tuple[str, int | None, bool, int]:
        """Return how a chunk ends whose last statement is this one."""
        negated, predicate, opcode, operands = self.statements[number]
        if opcode in _BRANCHES:
            register = translator.register(predicate) if predicate else None
            return "branch", register, negated, targets[operands]
        if not _ENDS_A_CHUNK.fullmatch(opcode):
            return "next", None, False, -1
        if predicate or operands not in ("", "0"):
            raise UnknownInstruction(f"{self.name}: {self.statements[number]} of some threads")
        return "barrier" if opcode.startswith("bar") else "exit", None, False, -1


def _read(body: str) -> tuple[list[Statement], dict[str, int]]:
    """Return the statements of a kernel, and the number of that which follows each label."""
    statements, labels = list[Statement](), dict[str, int]()
    for part in _LABEL_OR_END.split(_NOT_CODE.sub("", body)):
        text = (part or "").strip()
        if text.endswith(":"):
            labels[text[:-1]] = len(statements)
        elif text:
            statements.append(read_statement(text))
    return statements, labels


def _starts(statements: Sequence[Statement], labels: dict[str, int], fine: bool) -> list[int]:
    """Return the first statement of each chunk."""
    branched_to = {s.operands for s in statements if s.opcode in _BRANCHES}
    starts = {0} | {labels[label] for label in branched_to}
    for number, statement in enumerate(statements[:-1]):
        ends = _ENDS_A_CHUNK.fullmatch(statement.opcode)
        if ends or (fine and _TOUCHES_MEMORY.fullmatch(statement.opcode)):
            starts.add(number + 1)
    return sorted(starts)


def _shared_unit(statements: Sequence[Statement]) -> int:
    """Return the bits that number the bytes of the narrowest access of shared memory."""
    widths = [16]
    for statement in statements:
        parts = statement.opcode.split(".")
        if parts[0] in ("ld", "st", "cp") and "shared" in statement.opcode:
            widths.append(np.dtype(DTYPES.get(parts[-1], "u4")).itemsize)
    return min(widths).bit_length() - 1
