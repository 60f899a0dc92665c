"""Experts that the trace names: what the checker refuses, and what it charges."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from kvbound.checker import check
from kvbound.checker.inputs import read_case
from tests.checker.layered import Layered
from tests.checker.plain import Plain

MIXTURE = Layered(
    [[[], []], [[], []]], 0, sizes=2, capacity=(100, None), weights=40, weight_reads=[10.0, 3.0],
    placement={"weights": "placeable", "experts": [3, 0], "expert_bytes": [5, 0], "experts_read": 1.5},
    routing=[[[0], []], [[0, 2], []]],
)  # fmt: skip


def schedule(case: Layered) -> dict[str, Any]:
    return Plain(case).walk(np.random.default_rng(0)).arrays


def refused(expanded: dict[str, Any], rows: Any = None, case: Layered = MIXTURE) -> str:
    """The only problem that is found with a schedule of the instance, if any, or else an empty text."""
    own = {"instance_sha256": np.array(case.sha256)}
    report = check(expanded, case.rows if rows is None else rows, own | schedule(case))
    return " ".join(report.problems)


def test_experts_are_chunks_after_the_others() -> None:
    found = read_case(MIXTURE.expanded, MIXTURE.rows)
    assert found.lives[0].chunks[:4].tolist() == [1, 2, 2, 2]  # 2.5 other bytes, and experts of 5
    assert found.lives[1].chunks[:4].tolist() == [1, 0, 0, 0]
    assert found.weight_reads.tolist() == [10 - 2 - 1.5 * 4, 1]
    assert found.weight_bytes == 40 - 2 - 3 * 4 - 2
    bits = np.unpackbits(found.rows(0), axis=1, bitorder="little")
    assert bits[:, :5].tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 1, 0]]
    assert not refused(MIXTURE.expanded)


@pytest.mark.parametrize(
    ("way", "value", "expected"),
    [
        (("llm", "weights"), ..., "placeable weights where the trace names experts"),
        (("llm", "experts"), ..., "experts, a list of one number per layer up to 2048"),
        (("llm", "experts"), 3, "experts, a list of one number per layer up to 2048"),
        (("llm", "experts"), [3], "experts, a list of one number per layer"),
        (("llm", "experts"), [3, -1], "experts, a list of one number per layer"),
        (("llm", "experts"), [3, 2049], "experts, a list of one number per layer"),
        (("llm", "experts"), [True, 0], "experts, a list of one number per layer"),
        (("llm", "experts"), [3, 1], "expert_bytes in every layer with experts"),
        (("llm", "experts"), [2, 0], "layer 0 has 2 experts, but the trace names expert 2"),
        (("llm", "experts"), [0, 0], "experts_read, a number from 0 to the experts of a layer"),
        (("llm", "expert_bytes"), ..., "expert_bytes, a list of one size per layer"),
        (("llm", "expert_bytes"), [5.5, 0], "expert_bytes, a list of one size per layer"),
        (("llm", "expert_bytes"), [7, 0], "experts_read of at most what each layer reads"),
        (("llm", "expert_bytes"), [1 << 61, 0], "expert_bytes, a list of one size per layer"),
        (("llm", "experts_read"), -1, "experts_read, a number from 0"),
        (("llm", "experts_read"), 4, "experts_read, a number from 0"),
        (("llm", "experts_read"), "1", "experts_read, a number from 0"),
        (("llm", "experts_read"), True, "experts_read, a number from 0"),
        (("llm", "weight_bytes"), 15, "weight_bytes of at least all chunks of weights"),
        (("trace", "experts_sha256"), ..., "the trace's own experts (SHA-256 of each layer)"),
        (("trace", "experts_sha256"), [], "the trace's own experts (SHA-256 of each layer)"),
        (("trace", "experts_sha256"), ["0" * 64] * 2, "the trace's own experts (SHA-256 of each layer)"),
        (("trace", "experts_sha256"), 3, "malformed"),
        (("trace", "layers"), "2", "malformed"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused(way: tuple[str, ...], value: Any, expected: str) -> None:
    assert expected in refused(MIXTURE.edited(way, value))


def test_experts_of_the_llm_alone_are_refused() -> None:
    plain = dataclasses.replace(MIXTURE, routing=None, placement={"weights": "placeable"})
    assert not refused(plain.expanded, case=plain)
    for key, value in MIXTURE.placement.items():
        if key != "weights":
            expected = "experts of the llm only where the trace names any"
            assert expected in refused(plain.edited(("llm", key), value), case=plain)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda rows: rows[:2], "the trace's own experts"),
        (lambda rows: rows[:3], "the trace's own experts"),
        (lambda rows: [*rows[:2], rows[3], rows[2]], "the trace's own experts"),
        (lambda rows: [*rows[:3], rows[3] ^ 1], "the trace's own experts"),
        (lambda rows: [*rows, rows[3]], "the trace's own experts"),
        (lambda rows: [rows[2], *rows[1:]], "the trace's own rows"),
    ],
)  # fmt: skip
def test_other_experts_than_the_instances_are_refused(changed: Any, expected: str) -> None:
    assert expected in refused(MIXTURE.expanded, changed(MIXTURE.rows))


@pytest.mark.parametrize("array", [np.zeros((2, 7), np.uint8), np.zeros((2, 264), np.uint8),
                                   np.zeros((1, 8), np.uint8), np.zeros((2, 8), np.int8),
                                   np.zeros(16, np.uint8), np.zeros((2, 0), np.uint8)])  # fmt: skip
def test_experts_in_other_arrays_are_refused(array: Any) -> None:

    rows = [*MIXTURE.rows[:3], array]
    hashes = [hashlib.sha256(np.ascontiguousarray(layer).data).hexdigest() for layer in rows[2:]]
    assert "layer 1: the experts named are" in refused(
        MIXTURE.edited(("trace", "experts_sha256"), hashes), rows
    )


def test_an_expert_that_is_not_named_may_not_go_up_on_read() -> None:
    case = dataclasses.replace(MIXTURE, rules={"migration": "on-read", "copies": "exclusive"})
    start = np.ones((2, 64), np.uint8)
    births = [(step, layer, 64 + step, 1) for step in (0, 1) for layer in (0, 1)]
    named, other = ((1, 0, chunk, 0) for chunk in (3, 2))  # step 1 names experts 0 and 2
    assert case.checked(case.schedule(start, [*births, named])).problems == ()
    (problem,) = case.checked(case.schedule(start, [*births, other])).problems
    assert "chunk 2 goes up without being read (on-read)" in problem


def test_only_named_experts_are_read() -> None:
    """Each of 4 bytes from the slow tier at 1 B/s takes 4 s, and a named expert moves for its write only."""
    still = dataclasses.replace(MIXTURE, capacity=(None, None))
    births = [(step, layer, 64 + step, 0) for step in (0, 1) for layer in (0, 1)]
    start = np.zeros((2, 64), np.uint8)
    near = still.checked(still.schedule(start, births))
    slow = start.copy()
    slow[0, 2] = 1  # expert 1, which no step names
    assert still.checked(still.schedule(slow, births)).time_s == near.time_s
    slow[0, 1] = 1  # expert 0, in both steps
    far = still.checked(still.schedule(slow, births)).time_s
    assert far is not None
    assert near.time_s is not None
    assert far - near.time_s == pytest.approx(2 * (4 - 4 / 4))
    moved = still.checked(still.schedule(slow, [*births, (0, 0, 1, 0)])).time_s
    assert moved is not None
    assert moved - near.time_s == pytest.approx(4 - 1 + 1)
