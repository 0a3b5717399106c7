"""The generators of a draw: their artefacts are of the grade that their name tells."""

import pytest

from focus.data.demo.grammar import NAMES, PAIRS, generators

NEIGHBOUR = {a.__name__: b.__name__ for pair in PAIRS for a, b in (pair, pair[::-1])}


@pytest.mark.parametrize("draw", range(8))
def test_artefacts_are_of_their_generators_grade(draw: int) -> None:
    drawn = generators(draw)
    assert {name: each.grade for name, each in drawn.items()} == NAMES
    sets = {name: {a.__name__ for a in each.artefacts} for name, each in drawn.items()}
    of = {
        grade: [own for name, own in sets.items() if NAMES[name] == grade]
        for grade in ("known", "recombined", "near", "far")
    }
    assert [len(own) for own in of.values()] == [4, 4, 4, 4]
    known = set().union(*of["known"])
    near = {NEIGHBOUR[name] for name in known}
    assert len(known) == 6
    assert not known & near
    for own in of["recombined"]:
        assert own <= known
        assert not any(own <= trained for trained in of["known"])
    assert set().union(*of["near"]) == near
    assert set().union(*of["far"]) == NEIGHBOUR.keys() - known - near
    assert sets["global"] == {"spectrum"}


def test_draws_differ_and_one_is_always_the_same() -> None:
    assert generators(3) == generators(3)
    assert len({str(generators(draw)) for draw in range(20)}) == 20
