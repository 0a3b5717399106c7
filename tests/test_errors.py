"""The messages of errors are short sentences."""

import ast

from .launching import CHECKOUT

FILES = sorted(path for name in ("focus", "kernels") for path in (CHECKOUT / name).rglob("*.py"))
MESSAGES = [
    (f"{path.name}:{call.lineno}", call.args[0])
    for path in FILES
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(call, ast.Call) and ast.unparse(call.func) == "InputError"
]


def words(message: ast.expr) -> str:
    """Return what the code itself says in a message, what is put in apart."""
    parts = (part.value for part in ast.walk(message) if isinstance(part, ast.Constant))
    return "".join(part for part in parts if isinstance(part, str))


def test_a_message_leaves_room_for_names_below_200_characters() -> None:
    assert len(MESSAGES) > 100
    assert [location for location, message in MESSAGES if len(words(message)) > 140] == []
