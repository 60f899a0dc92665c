"""Where the onset is looked for; `test_binding` has its values."""

from __future__ import annotations

from kvbound.onset import candidates, first_failure


def test_the_next_numbers_doubles_full_tiers_and_the_end_are_tried() -> None:
    assert candidates(3, 100, [40, 200]) == [*range(4, 19), 24, 40, 41, 48, 96, 100]
    assert candidates(3, 5, [3]) == [4, 5]
    assert candidates(3, 3, [3]) == []


def test_the_first_failure_after_the_last_number_that_does_not_fail() -> None:
    assert first_failure(1, [2, 6, 8], lambda number: number == 4 or number >= 7) == 7
    assert first_failure(1, [2, 6, 8], lambda number: number >= 2) == 2
    assert first_failure(1, [2, 6, 8], lambda number: number > 8) is None
