"""Turn instructions of PTX into Python that acts on registers of NumPy.

In the Python, ``S`` are the threads (:class:`bench.ptx.threads.Threads`), ``R`` their registers, an
array each, and ``m`` is a mask of the threads that are on; a predicate narrows it to ``q``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.ptx.arithmetic import comparison
from bench.ptx.errors import UnknownInstruction

SHARED_BASE = 1024
"""Where dynamic shared memory begins."""
DTYPES = {
    "pred": "?", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2",
    "f16": "f2", "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "b64": "u8", "u64": "u8",
    "s64": "i8",
}  # fmt: skip
_REGISTER_DTYPES = {"p": "?", "rs": "u2", "r": "u4", "rd": "u8"}
"""By the letters of a register's name, as LLVM gives them."""
_BITS = {"?": "pred", "u1": "b8", "u2": "b16", "u4": "b32", "u8": "b64"}
_STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)

_ANY, _INTEGER = r"([busf]8|[busf](16|32|64))", r"([su](16|32|64))"


class Statement(NamedTuple):
    """An instruction: its predicate ("" without one), opcode and operands."""

    negated: bool
    predicate: str
    opcode: str
    operands: str

    def __str__(self) -> str:
        return f"{self.opcode} {' '.join(self.operands.split())}"


def read_statement(text: str) -> Statement:
    """Return the statement that stands in a text without its semicolon."""
    match = _STATEMENT.match(text)
    if match is None:
        raise UnknownInstruction(f"{text!r} is no statement that the interpreter knows")
    negated, predicate, opcode, operands = match.groups()
    return Statement(bool(negated), predicate or "", opcode, operands.strip())


class Translator:
    """Registers, parameters and constants of a kernel, and the Python of its statements.

    parameters: names in their order; dtypes: of the registers, by number; constants: by the names
    that the Python gives them.
    """

    def __init__(self, kernel: str, parameters: Sequence[str]) -> None:
        self.kernel, self.parameters = kernel, list(parameters)
        self.dtypes: list[str] = []
        self.constants: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}

    def register(self, name: str) -> int:
        """Return the number of a register."""
        if name not in self._numbers:
            match = re.match(r"%([a-z]+)\d+$", name)
            if match is None or match[1] not in _REGISTER_DTYPES:
                raise UnknownInstruction(f"{self.kernel}: {name} is no register that is known")
            self._numbers[name] = len(self.dtypes)
            self.dtypes.append(_REGISTER_DTYPES[match[1]])
        return self._numbers[name]

    def constant(self, value: Any, dtype: str) -> str:
        """Return the name of a constant."""
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)[()]
        return name

    def lines(self, number: int, statement: Statement, masked: bool) -> list[str]:
        """Return the Python of a statement, for the threads of a mask or for all.

        Raises:
            UnknownInstruction: it is not known, and named.
        """
        for pattern, translate in _INSTRUCTIONS:
            if re.fullmatch(pattern, statement.opcode):
                translation = _Translation(self, number, statement, masked)
                try:
                    translate(translation)
                except (KeyError, IndexError, ValueError, AssertionError) as error:
                    raise UnknownInstruction(f"{self.kernel}: {statement} ({error!r})") from error
                return translation.lines
        raise UnknownInstruction(f"{self.kernel}: the interpreter does not know {statement}")


class _Translation:
    """The Python of one statement."""

    def __init__(
        self, translator: Translator, number: int, statement: Statement, masked: bool
    ) -> None:
        self.translator, self.number = translator, number
        self.opcode, self.parts = statement.opcode, statement.opcode.split(".")
        self.type = self.parts[-1]
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", statement.operands)
        self.operands = [operand.strip() for operand in operands if operand.strip()]
        self.mask = "m" if masked else "None"
        self.lines: list[str] = []
        if statement.predicate:
            sign = "~" if statement.negated else ""
            others = " & m" if masked else ""
            register = translator.register(statement.predicate)
            self.lines.append(f"q = {sign}R[{register}]{others}")
            self.mask = "q"

    # Operands.

    def value(self, text: str, type: str) -> str:
        """Return Python of an operand as a type: an array, or a constant."""
        dtype = DTYPES[type]
        if special := re.fullmatch(r"%(tid|ctaid|ntid|nctaid)\.([xyz])", text):
            return f"S.special('{special[1]}', '{special[2]}')"
        if text.startswith("%"):
            return self._register_as(text, type)
        if floating := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", text):
            bits = np.array(int(floating[1], 16), "u4")
            return self.translator.constant(bits.view("f4") if dtype == "f4" else bits, dtype)
        is_number = re.fullmatch(r"-?(0x[\da-fA-F]+|\d+)U?", text)
        number = int(text.rstrip("U"), 0) if is_number else _symbol(text)
        if dtype == "?":
            return self.translator.constant(number != 0, "?")
        size = np.dtype(dtype).itemsize
        bits = np.array(number % 2 ** (8 * size), f"u{size}")
        return self.translator.constant(bits.view(dtype), dtype)

    def _register_as(self, name: str, type: str) -> str:
        number, dtype = self.translator.register(name), DTYPES[type]
        held = self.translator.dtypes[number]
        if held == dtype:
            return f"R[{number}]"
        size = np.dtype(dtype).itemsize
        if np.dtype(held).itemsize > size:  # stores and conversions take the low bits
            assert type[0] in "bsu", "a part of a register"
            return f"R[{number}].astype('u{size}').view('{dtype}')"
        assert np.dtype(held).itemsize == size, "a register of another size"
        return f"R[{number}].view('{dtype}')"

    def values(self, group: str, type: str) -> list[str]:
        """Return Python of each operand of a group in braces, or of the one without them."""
        return [self.value(text.strip(), type) for text in group.strip("{}").split(",")]

    def tuple_of(self, group: str, type: str) -> str:
        """Return Python of a tuple of a group's operands."""
        return f"({', '.join(self.values(group, type))},)"

    def address(self, text: str, dtype: str) -> str:
        """Return Python of an address in brackets: an array of a base, and an offset."""
        base, _, offset = (part.strip() for part in text.strip("[]").partition("+"))
        if base.startswith("%"):
            return f"R[{self.translator.register(base)}], {int(offset or '0', 0)}"
        return f"S.full({_symbol(base)}, '{dtype}'), {int(offset or '0', 0)}"

    # Results.

    def put(self, target: str, expression: str, dtype: str) -> None:
        """Assign an expression of a dtype to a register; ``_`` takes none."""
        if target == "_":
            return
        number = self.translator.register(target)
        held = self.translator.dtypes[number]
        if held != "?" and np.dtype(held).itemsize > np.dtype(dtype).itemsize:
            assert self.type[0] != "s", "a load by its sign"
            expression = f"({expression}).astype('{held}')"
        elif held != dtype:
            assert np.dtype(held).itemsize == np.dtype(dtype).itemsize, "a result of another size"
            expression = f"({expression}).view('{held}')"
        if self.mask != "None":
            expression = f"where({self.mask}, {expression}, R[{number}])"
        self.lines.append(f"R[{number}] = {expression}")

    def put_several(self, group: str, expression: str, dtype: str) -> None:
        """Assign the elements of a sequence to a group of registers."""
        self.lines.append(f"x = {expression}")
        for i, target in enumerate(group.strip("{}").split(",")):
            self.put(target.strip(), f"x[{i}]", dtype)

    def call(self, method: str, *arguments: object) -> str:
        """Return a call of the threads' method; the mask and the statement's number end it."""
        return f"S.{method}({', '.join(map(str, (*arguments, self.mask, self.number)))})"

    # Memory.

    def load_parameter(self) -> None:
        target, source = self.operands
        number = self.translator.parameters.index(source.strip("[]"))
        held = self.translator.dtypes[self.translator.register(target)]
        self.put(target, f"S.parameter({number}, '{DTYPES[self.type]}', '{held}')", held)

    def load(self) -> None:
        target, source = self.operands
        raw = f"u{np.dtype(DTYPES[self.type]).itemsize}"
        shared = self.parts[1] == "shared"
        address = self.address(source, "u4" if shared else "u8")
        method = "load_shared" if shared else "load_global"
        loaded = self.call(method, address, f"'{raw}'", _vector(self.parts))
        if raw == "u1":  # registers have 16 bits at least
            loaded, raw = f"widen({loaded}, '{DTYPES[self.type]}')", "u2"
        self.put_several(target, loaded, raw)

    def load_matrix(self) -> None:
        target, source = self.operands
        count, transposed = _matrices(self.parts)
        address = self.address(source, "u4")
        self.put_several(target, self.call("load_matrix", address, count, transposed), "u4")

    def store(self) -> None:
        target, source = self.operands
        raw = f"u{np.dtype(DTYPES[self.type]).itemsize}"
        shared = self.parts[1].startswith("shared")
        address = self.address(target, "u4" if shared else "u8")
        values = self.tuple_of(source, "b16" if raw == "u1" else self.type)
        method = "store_shared" if shared else "store_global"
        self.lines.append(self.call(method, address, f"'{raw}'", values))

    def store_matrix(self) -> None:
        target, source = self.operands
        _, transposed = _matrices(self.parts)
        values = self.tuple_of(source, "b32")
        address = self.address(target, "u4")
        self.lines.append(self.call("store_matrix", address, values, transposed))

    def atomic_add(self) -> None:
        target, location, addend = self.operands
        address, value = self.address(location, "u8"), self.value(addend, "u32")
        self.put(target, self.call("atomic_add", address, value, f"'{self.parts[3]}'"), "u4")

    def fence(self) -> None:
        self.lines.append(self.call("fence"))

    def copy(self) -> None:
        target, source, size, *count = self.operands
        copied = self.value(count[0], "u32") if count else f"S.full({int(size, 0)}, 'u4')"
        places = self.address(target, "u4"), self.address(source, "u8")
        self.lines.append(self.call("copy", *places, int(size, 0), copied))

    def commit_copies(self) -> None:
        self.lines.append(self.call("commit_copies"))

    def wait_for_copies(self) -> None:
        pending = int(self.operands[0]) if self.operands else 0
        self.lines.append(self.call("wait_for_copies", pending))

    # Warps.

    def warp_barrier(self) -> None:
        self.lines.append(self.call("whole_warps"))

    def multiply_matrices(self) -> None:
        target, a, b, c = self.operands
        tuples = self.tuple_of(a, "b32"), self.tuple_of(b, "b32"), self.tuple_of(c, "f32")
        self.put_several(target, self.call("multiply_matrices", *tuples), "f4")

    def shuffle(self) -> None:
        target, *sources = self.operands
        values = [self.value(source, "b32") for source in sources]
        self.put(target, self.call("shuffle", f"'{self.parts[2]}'", *values), "u4")

    def reduce_warp(self) -> None:
        target, source, members = self.operands
        values = self.value(source, self.type), self.value(members, "b32")
        self.put(target, self.call("reduce_warp", f"'{self.parts[2]}'", *values), DTYPES[self.type])

    # Moves.

    def move(self) -> None:
        target, source = self.operands
        dtype = DTYPES[self.type]
        if target.startswith("{"):
            count = target.count(",") + 1
            part = f"u{np.dtype(dtype).itemsize // count}"
            unpacked = f"unpack({self.value(source, self.type)}, '{part}', {count})"
            self.put_several(target, unpacked, part)
        elif source.startswith("{"):
            part = f"u{np.dtype(dtype).itemsize // (source.count(',') + 1)}"
            parts = ", ".join(self.values(source, _BITS[part]))
            self.put(target, f"pack(S.count, '{part}', '{dtype}', {parts})", dtype)
        else:
            value = self.value(source, self.type)
            is_constant = value in self.translator.constants
            self.put(target, f"S.full({value}, '{dtype}')" if is_constant else value, dtype)

    def compare(self) -> None:
        target, first, second = self.operands
        values = self.value(first, self.type), self.value(second, self.type)
        self.put(target, comparison(self.parts[1], *values, self.type[0] == "f"), "?")

    def select(self) -> None:
        target, first, second, condition = self.operands
        values = self.value(first, self.type), self.value(second, self.type)
        choice = f"where({self.value(condition, 'pred')}, {values[0]}, {values[1]})"
        self.put(target, choice, DTYPES[self.type])

    # Conversions.

    def _widened(self, text: str, type: str) -> str:
        if type == "bf16":
            return f"from_bf16({self.value(text, 'b16')})"
        return f"{self.value(text, 'f16')}.astype('f4')"

    def _narrowed(self, text: str, type: str) -> str:
        value = self.value(text, "f32")
        return f"to_bf16({value})" if type == "bf16" else f"{value}.astype('f2').view('u2')"

    def convert_from_16_bits(self) -> None:
        target, source = self.operands
        self.put(target, self._widened(source, self.type), "f4")

    def convert_to_16_bits(self) -> None:
        target, *sources = self.operands
        narrow = [self._narrowed(text, self.parts[2].removesuffix("x2")) for text in sources]
        if len(narrow) == 1:
            self.put(target, narrow[0], "u2")
        else:  # the first is the higher half
            self.put(target, f"pack(S.count, 'u2', 'u4', {narrow[1]}, {narrow[0]})", "u4")

    def convert_integer_to_float(self) -> None:
        target, source = self.operands
        self.put(target, f"{self.value(source, self.type)}.astype('f4')", "f4")

    def convert_integer(self) -> None:
        target, source = self.operands
        unsigned = DTYPES[self.parts[1]].replace("i", "u")
        value = f"{self.value(source, self.type)}.astype('{unsigned}')"  # by the source's sign
        self.type = self.parts[1].replace("s", "u")
        self.put(target, value, unsigned)

    # Floats.

    def add_pairs(self) -> None:
        target, *sources = self.operands
        pairs = [f"{self.value(source, 'b64')}.view('f4')" for source in sources]
        self.put(target, f"({_ARITHMETIC[self.parts[0]].format(*pairs)}).view('u8')", "u8")

    def add_mixed(self) -> None:
        target, first, second = self.operands
        values = self._widened(first, self.type), self.value(second, "f32")
        self.put(target, _ARITHMETIC[self.parts[0]].format(*values), "f4")

    def compute_float(self) -> None:
        target, *sources = self.operands
        name, values = self.parts[0], [self.value(source, "f32") for source in sources]
        if "ftz" in self.parts:
            values = [f"flush({value})" for value in values]
        if name in ("max", "min") and len(values) == 3:  # from sm_100 on
            values = [values[0], f"f{name}({values[1]}, {values[2]})"]
        form = _ARITHMETIC[f"{name}.{self.parts[1]}" if name in ("div", "ex2") else name]
        assert len(values) == len(set(re.findall(r"\{\d\}", form))), "another number of operands"
        result = form.format(*values)
        self.put(target, f"flush({result})" if "ftz" in self.parts else result, "f4")

    # Integers.

    def compute_integer(self) -> None:
        """Wrap around, as integers of PTX do."""
        target, *sources = self.operands
        name, signed = self.parts[0], DTYPES[self.type]
        unsigned = signed.replace("i", "u")
        if name in ("add", "sub", "mul", "mad"):
            bits = [self.value(source, _BITS[unsigned]) for source in sources]
            self.put(target, _ARITHMETIC[name].format(*bits), unsigned)
            return
        values = [self.value(source, self.type) for source in sources]
        if name in ("div", "rem"):
            self.lines.append(self.call("refuse_zero", values[1]))
        self.put(target, _ARITHMETIC[f"{name}.integer"].format(*values), signed)

    def multiply_wide(self) -> None:
        target, first, second, *addend = self.operands
        wide_type = f"{self.type[0]}{2 * int(self.type[1:])}"
        wide = DTYPES[wide_type]
        factors = [f"{self.value(text, self.type)}.astype('{wide}')" for text in (first, second)]
        product = " * ".join(factors)
        self.put(target, " + ".join([product, *(self.value(x, wide_type) for x in addend)]), wide)

    def multiply_high(self) -> None:
        target, *sources = self.operands
        dtype = DTYPES[self.type]
        factors = [f"{self.value(text, self.type)}.astype('{dtype[0]}8')" for text in sources]
        self.put(target, f"(({' * '.join(factors)}) >> 32).astype('{dtype}')", dtype)

    def compute_bits(self) -> None:
        target, *sources = self.operands
        values = [self.value(source, self.type) for source in sources]
        self.put(target, _ARITHMETIC[self.parts[0]].format(*values), DTYPES[self.type])

    def shift(self) -> None:
        target, source, by = self.operands
        dtype = DTYPES[self.type]
        values = f"{self.value(source, self.type)}, {self.value(by, 'u32')}"
        self.put(target, f"shift('{self.parts[0]}', {values}, '{dtype}')", dtype)

    def bit_field(self) -> None:
        target, source, first, length = self.operands
        dtype = DTYPES[self.type]
        field = self.value(first, "u32"), self.value(length, "u32")
        expression = f"bit_field({self.value(source, self.type)}, {', '.join(field)}, '{dtype}')"
        self.put(target, expression, dtype)

    def permute(self) -> None:
        target, *sources = self.operands
        values = ", ".join(self.value(source, "b32") for source in sources)
        self.put(target, f"permute({values})", "u4")


_ARITHMETIC = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "mad": "{0} * {1} + {2}",
    "fma": "fma({0}, {1}, {2})", "neg": "-{0}", "abs": "np.abs({0})",
    "max": "fmax({0}, {1})", "min": "fmin({0}, {1})",
    # Approximations, which may be off by some units in the last place.
    "div.full": "S.near({0} / {1})", "div.approx": "S.near(div_approx({0}, {1}))",
    "ex2.approx": "S.near(exp2({0}))",
    "div.integer": "divide({0}, {1})", "rem.integer": "remainder({0}, {1})",
    "max.integer": "np.maximum({0}, {1})", "min.integer": "np.minimum({0}, {1})",
    "neg.integer": "-{0}", "abs.integer": "np.abs({0})",
    "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}",
}  # fmt: skip

_FAMILIES: dict[str, Callable[[_Translation], None]] = {
    rf"ld\.param\.{_ANY}": _Translation.load_parameter,
    rf"ld\.(global(\.c[ag])?|shared)(\.v[24])?\.{_ANY}": _Translation.load,
    r"ldmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared\.b16": _Translation.load_matrix,
    rf"st\.(global|shared(::cta)?)(\.v[24])?\.{_ANY}": _Translation.store,
    r"stmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared\.b16": _Translation.store_matrix,
    r"atom\.global\.gpu\.(relaxed|acquire|release|acq_rel)\.add\.u32": _Translation.atomic_add,
    r"fence\.acq_rel\.gpu": _Translation.fence,
    r"cp\.async\.c[ag]\.shared\.global": _Translation.copy,
    r"cp\.async\.commit_group": _Translation.commit_copies,
    r"cp\.async\.wait_(group|all)": _Translation.wait_for_copies,
    r"bar\.warp\.sync": _Translation.warp_barrier,
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32": (
        _Translation.multiply_matrices
    ),
    r"shfl\.sync\.(bfly|idx|up|down)\.b32": _Translation.shuffle,
    r"redux\.sync\.((max|min)\.([su]32|f32)|add\.[su]32|(and|or)\.b32)": _Translation.reduce_warp,
    rf"mov\.(pred|{_ANY})": _Translation.move,
    rf"setp\.(eq|ne|lt|le|gt|ge|lo|ls|hi|hs)\.{_ANY}": _Translation.compare,
    r"setp\.((eq|ne|lt|le|gt|ge)u|num|nan)\.f32": _Translation.compare,
    rf"selp\.{_ANY}": _Translation.select,
    r"cvt\.f32\.b?f16": _Translation.convert_from_16_bits,
    r"cvt\.rn\.b?f16(x2)?\.f32": _Translation.convert_to_16_bits,
    rf"cvt\.rn\.f32\.{_INTEGER}": _Translation.convert_integer_to_float,
    rf"cvt\.{_INTEGER}\.{_INTEGER}": _Translation.convert_integer,
    # Without .rn, ptxas may fuse a product into a sum: not known here, since it is not exact.
    r"(add|sub|mul)\.rn\.f32x2": _Translation.add_pairs,
    r"(add|sub)\.rn\.f32\.b?f16": _Translation.add_mixed,
    r"(add|sub|mul|fma)\.rn(\.ftz)?\.f32": _Translation.compute_float,
    r"(neg|abs|max|min)(\.ftz)?\.f32": _Translation.compute_float,
    r"(div\.(full|approx)|ex2\.approx)(\.ftz)?\.f32": _Translation.compute_float,
    rf"(add|sub|div|rem|min|max|neg|abs)\.{_INTEGER}": _Translation.compute_integer,
    rf"(mul|mad)\.lo\.{_INTEGER}": _Translation.compute_integer,
    r"(mul|mad)\.wide\.[su](16|32)": _Translation.multiply_wide,
    r"mul\.hi\.[su]32": _Translation.multiply_high,
    r"(and|or|xor|not)\.(pred|b16|b32|b64)": _Translation.compute_bits,
    rf"(shl|shr)\.(b16|b32|b64|{_INTEGER})": _Translation.shift,
    r"bfe\.[su]32": _Translation.bit_field,
    r"prmt\.b32": _Translation.permute,
}
_INSTRUCTIONS = tuple(_FAMILIES.items())
"""Everything that the interpreter knows, but for branches, barriers and the end of a thread."""


def _symbol(text: str) -> int:
    """Return the address of dynamic shared memory, the only name that these kernels use."""
    name, _, offset = (part.strip() for part in text.partition("+"))
    if name != "global_smem":
        raise UnknownInstruction(f"{text} is neither a number nor global_smem")
    return SHARED_BASE + int(offset or 0)


def _vector(parts: Sequence[str]) -> int:
    """Return how many registers an access moves."""
    return next((int(part[1:]) for part in parts if re.fullmatch(r"v\d", part)), 1)


def _matrices(parts: Sequence[str]) -> tuple[int, bool]:
    """Return how many matrices an instruction moves, and whether it transposes them."""
    (count,) = (int(part[1:]) for part in parts if re.fullmatch(r"x\d", part))
    return count, "trans" in parts
