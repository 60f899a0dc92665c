"""The legality and the charges of moves, against the rules of docs/model.md."""

from __future__ import annotations

import itertools

import pytest

from kvbound.cost.transitions import Transitions
from kvbound.rules import Copies, Migration, Rules


def is_legal(migration: Migration, read: bool, source: int, target: int) -> bool:
    if migration is Migration.NONE or source == target:
        return False
    if target > source:  # down is always allowed where anything moves
        return True
    return read or migration is Migration.PREFETCH


@pytest.mark.parametrize("tiers", [2, 3, 4])
@pytest.mark.parametrize("migration", Migration)
@pytest.mark.parametrize("copies", Copies)
def test_moves(tiers: int, migration: Migration, copies: Copies) -> None:
    transitions = Transitions.under(Rules(migration=migration, copies=copies), tiers)
    for read, source, target in itertools.product((False, True), range(tiers), range(tiers)):
        legal = is_legal(migration, read, source, target)
        assert transitions.legal[int(read), source, target] == legal
        assert ((source, target) in transitions.moves(read)) == legal


@pytest.mark.parametrize("tiers", [2, 3, 4])
def test_exclusive_copies_charge_every_move_and_write_births_once(tiers: int) -> None:
    transitions = Transitions.under(Rules(copies=Copies.EXCLUSIVE), tiers)
    for source, target in itertools.product(range(tiers), repeat=2):
        assert transitions.charged[source, target] == (source != target)
        assert transitions.birth_writes[source, target] == (source == target)
    assert list(transitions.limited) == list(range(tiers))


@pytest.mark.parametrize("tiers", [2, 3, 4])
def test_inclusive_copies_make_moves_to_the_last_tier_free_and_write_births_through(tiers: int) -> None:
    transitions, last = Transitions.under(Rules(copies=Copies.INCLUSIVE), tiers), tiers - 1
    for source, target in itertools.product(range(tiers), repeat=2):
        assert transitions.charged[source, target] == (source != target and target != last)
        assert transitions.birth_writes[source, target] == (target in (source, last))
    assert list(transitions.limited) == list(range(last))
