"""The words of the page in each language, from one table: ``words.json``."""

import json
from importlib import resources
from typing import Literal, get_args

Language = Literal["en", "de"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""The languages of the page; the first one where a browser asks for none of them."""
WORDS: dict[str, dict[Language, str]] = json.loads(
    resources.files("focus.annotate").joinpath("words.json").read_text(encoding="utf-8")
)
"""Key -> language -> text; the page puts values in the place of ``{names}``."""


def language_of(accepted: str) -> Language:
    """Return the language that a browser likes best; ``accepted`` is its ``Accept-Language``."""
    best, best_weight = LANGUAGES[0], 0.0
    for entry in accepted.split(","):
        name, _, parameter = entry.partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        for language in LANGUAGES:
            if name.strip().lower().split("-")[0] == language and weight > best_weight:
                best, best_weight = language, weight
    return best


def words_in(language: Language) -> dict[str, str]:
    """Return key -> text in a language."""
    return {key: texts[language] for key, texts in WORDS.items()}
