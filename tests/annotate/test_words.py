"""The page's words: in each language the same ones, and none that the page lacks."""

import re
from importlib import resources

import pytest

from focus.annotate.server import LANGUAGES, WORDS, Language, language_of


def test_every_language_has_every_word_with_the_same_values() -> None:
    for key, texts in WORDS.items():
        assert tuple(texts) == LANGUAGES, key
        values = {tuple(sorted(re.findall(r"{(\w+)}", text))) for text in texts.values()}
        assert len(values) == 1, key
        assert all(text == text.strip() != "" for text in texts.values()), key


def test_the_page_uses_every_word_and_no_other() -> None:
    page, script, server = (
        resources.files("focus.annotate").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "page.js", "server.py")
    )
    used = {*re.findall(r"words\.(\w+) }}", page)}
    used |= {*re.findall(r'_words\(request\)\["(\w+)"\]', server)}
    for words in re.findall(r"word\(([^)]*)\)", script):
        used |= {*re.findall(r'"(\w+)"', words)} & {*WORDS}
    used |= {
        f"{verdict}_{label}"
        for verdict in ("right", "wrong", "label")
        for label in ("real", "synthetic")
    }
    assert used == {*WORDS}
    assert "`${verdict}_${next.label}`" in script


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("fr-FR, fr;q=0.9, en;q=0.3, de;q=0.5", "de"),
        ("DE", "de"),
        ("fr", "en"),
        ("de;q=0", "en"),
        ("de;q=, en;q=high", "de"),
        ("*", "en"),
        ("", "en"),
    ],
)
def test_the_language_is_the_one_that_the_browser_likes_best(
    accepted: str, language: Language
) -> None:
    assert language_of(accepted) == language
