"""Every message to the user is a sentence: it begins as one and ends with a full stop."""

import ast
from pathlib import Path

import focus

SOURCES = sorted(Path(focus.__file__).parent.rglob("*.py"))


def messages() -> list[tuple[str, str]]:
    """Place and text of each error for the user; "{}" stands for what is filled in."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "InputError",
                "ImageError",
                "WorkerError",
            ):
                (message,) = node.args
                parts = message.values if isinstance(message, ast.JoinedStr) else [message]
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
                found.append((f"{path.name}:{node.lineno}", text))
    return found


def test_messages_are_sentences() -> None:
    found = messages()
    assert len(found) > 50
    assert [(place, text) for place, text in found if not text.endswith(".")] == []
    begun = [(place, text) for place, text in found if text[0].islower()]
    # A name in the code may begin a sentence.
    assert [
        (place, text) for place, text in begun if not text.startswith(("num_classes ", "timm "))
    ] == []
