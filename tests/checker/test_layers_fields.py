"""Sizes and windows by layer: malformed fields are refused, and what follows from others is verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from kvbound.checker import check, check_result
from tests.checker.layered import Layered
from tests.checker.test_layers import STILL, TWO, born, with_capacity

FIELDS = Layered([[[2], []]], 3, [2, 3], [2, None], formats={"t1": {"bytes": [4, 5]}})


SIZES, WINDOWS, FORMAT = ("llm", "kv_bytes_per_token_layer"), ("llm", "windows"), ("formats", "t1", "bytes")
WRONG: dict[tuple[str, ...], tuple[Any, ...]] = {
    SIZES: (
        [2, 2], [0, 0], [2], [2, 3, 4], [2, -1], [2, 2.5], [2, None], [], "2", [True, 2], [2, 2**61], (2, 3),
        [[2], [3]], {}, None, 0, [0, 2], [2, 0],
    ),
    FORMAT: (
        [4], [4, 5, 6], [0, 5], [4, 0], [4, -5], [4, 5.0], [4, None], "4", [True, 5], [4, 2**61], (4, 5), [],
        None, 0,
    ),
    WINDOWS: (
        ..., [None, None], [2], [2, 3, 4], [0, 2], [-1, 2], [2.0, None], [True, 2], ["2", None], [2, 2**61],
        (2, None), 2, None, {}, [],
    ),
    ("rules", "granularity"): ([1], [1, 1], 0),
    ("rules", "windows"): (..., "ignore", "end", "", None, True, ["ends"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "value"), [(way, value) for way, values in WRONG.items() for value in values]
)
def test_malformed_fields_are_refused(way: tuple[str, ...], value: Any) -> None:
    report = check(FIELDS.edited(way, value), FIELDS.rows, FIELDS.schedule([[0] * 3] * 2, born(FIELDS)))
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the expanded instance is malformed: ValueError: expected ")


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (SIZES, [3, 2]),
        (SIZES, 2),
        (FORMAT, [5, 4]),
        (FORMAT, 4),
        (WINDOWS, [3, None]),
        (WINDOWS, [None, 2]),
        (("trace", "sequence"), [0, 0, 1, 1]),
    ],
)
def test_other_sizes_and_windows_are_another_instance(way: tuple[str, ...], value: Any) -> None:
    case = dataclasses.replace(FIELDS, reads=TWO)
    arrays = case.schedule([[0] * 3] * 2, born(case)) | {"instance_sha256": np.array(case.sha256)}
    assert check(case.expanded, case.rows, arrays).ok
    report = check(case.edited(way, value), case.rows, arrays)
    assert "the file was made for another instance" in report.problems[0]


def test_the_hash_covers_the_fields_as_they_are_written() -> None:
    body = FIELDS.expanded
    del body["name"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    for part in (
        '"kv_bytes_per_token_layer":[2,3]',
        '"windows":[2,null]',
        '"windows":"ends"',
        '{"bytes":[4,5]}',
    ):
        assert part in text
    for number in ("latency", "weight_read_bytes_per_layer"):
        assert f'"{number}":' in text
    text = text.replace(".0", "")  # whole numbers are written as integers
    report = FIELDS.checked({"schema": np.array("kvbound.certificate/1")})
    assert report.instance_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_published_accounting_has_one_size_and_no_windows() -> None:
    study = {"copies": "inclusive", "timing": "parallel", "accounting": "fang2025"}
    for more, expected in (
        ({"sizes": [2, 3]}, "one size of items under accounting fang2025"),
        ({"windows": [2, None]}, "no windows under accounting fang2025"),
    ):
        case = Layered(TWO, 2, rules=study, **more)
        (problem,) = case.checked({"schema": np.array("kvbound.schedule-fang2025/1")}).problems
        assert problem == f"the expanded instance is malformed: ValueError: expected {expected}"


def infeasible(case: Layered) -> dict[str, Any]:
    """A result that says that no schedule exists."""
    missing = [
        "time_s", "gap", "share_of_bound", "tokens_per_s", "tokens_per_s_bound", "tpot_s", "hit_rate",
        "hit_rate_with_weights", "moved_bytes", "utilisation", "energy_j", "peak_bytes",
    ]  # fmt: skip
    read = [(step, token) for step, each in enumerate(case.reads) for tokens in each for token in tokens]
    past = sum(case.born[token] < step for step, token in read)
    return dict.fromkeys(missing) | {
        "schema": "kvbound.result/1", "kvbound_version": "1", "method": "exact", "seed": 0, "options": {},
        "instance": {
            "name": "some", "sha256": case.sha256, "layers": case.layers, "prefill_tokens": case.prefill,
            "decode_steps": case.steps, "tokens": len(case.born), "outputs": len(case.born) - case.prefill,
            "reads": past,
        },
        "status": "infeasible", "termination": {"reason": "proved", "limit": None},
        "bound": {"time_s": None, "status": "none", "method": None}, "wall_s": 0, "peak_rss_bytes": 0,
        "kernel": "numpy",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("capacity", "sure"),
    [
        ((8, 4), True),  # the last item finds room wherever the others are
        ((8, 3), False),  # not if they leave 2 bytes in each tier, and it has 3
        ((5, 5), False),
        ((10, 0), True),
        ((0, 10), True),
        ((9, 0), False),
        ((1, None), True),
    ],
)
def test_infeasible_is_refused_where_items_fit_in_any_order(capacity: Any, sure: bool) -> None:
    """Two tokens in layers of 2 and 3 bytes."""
    case = Layered(TWO, 2, [2, 3], capacity=capacity, trace=STILL)
    found = check_result(case.expanded, case.rows, infeasible(case)).problems
    sentence = "status is 'infeasible', but there is room for the weights and for every block"
    assert found == ((sentence,) if sure else ())


def test_infeasible_is_refused_where_all_tokens_fit_in_the_end() -> None:
    """Two tokens are born in each step; in tier 1 they have 2 and 3 bytes, and nothing fits tier 0."""
    formats = {"t1": {"bytes": [2, 3]}}
    for last, room in ((4 * 2 + 4 * 3 - 1, False), (4 * 2 + 4 * 3, True)):
        case = Layered(TWO * 2, 0, [1, 3], trace={"births": [2, 2]}, formats=formats, capacity=(0, last))
        found = check_result(case.expanded, case.rows, infeasible(case)).problems
        assert bool(found) == room


def test_room_for_everything_is_counted_in_integers_of_any_size() -> None:
    large = 2**60
    for last, room in ((20 * large + 19, False), (20 * large + 20, True)):
        case = Layered(TWO, 20, [1, large], trace=STILL, capacity=(0, last))
        assert bool(check_result(case.expanded, case.rows, infeasible(case)).problems) == room


def test_infeasible_is_refused_where_windows_make_room() -> None:
    cases: list[tuple[list[int | None] | None, bool]] = [([2, 2], True), ([3, 2], False), (None, False)]
    for windows, room in cases:
        case = Layered([[[], []]] * 3, 3, windows=windows, rules={"copies": "inclusive"})
        case = with_capacity(case, 0, 2)
        assert bool(check_result(case.expanded, case.rows, infeasible(case)).problems) == room
