"""Weights that may be placed: how they are divided, what is refused, and what follows for a result."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from kvbound.checker import check, check_result
from kvbound.checker.inputs import read_case
from tests.checker.layered import Layered
from tests.checker.test_layers import STILL, with_capacity
from tests.checker.test_layers_fields import infeasible
from tests.checker.test_weights import PAIR, PLACEABLE, VALID, T, start


@pytest.mark.parametrize(
    ("read", "size", "granularity", "limit", "expected"),
    [
        (0.0, 2, 1, None, []),
        (1.9, 2, 1, None, []),
        (2.0, 2, 1, None, [1]),
        (7.9, 2, 1, None, [3]),
        (7.9, 2, 2, None, [1]),
        (7.0, 2, 1, 1, [1, 1, 1]),
        (7.0, 2, 1, 3, [1, 1, 1]),
        (7.0, 2, 1, 4, [2, 1]),
        (8.0, 2, 1, 4, [2, 2]),
        (7.0, 2, 1, 5, [2, 1]),
        (7.0, 2, 1, 100, [3]),
        (26.0, 2, 4, 17, [2, 1]),
        (64.0, 1, 1, 1, [1] * 64),
        (65.0, 1, 1, 1, [1] * 65),
        (4096.0, 1, 1, 1, [1] * 4096),
        (2.0**60, 2**20, 1, 2**49, [2**29] * 2048),
    ],
)
def test_weights_are_divided_into_chunks_of_whole_blocks(
    read: float, size: int, granularity: int, limit: int | None, expected: list[int]
) -> None:
    placement = PLACEABLE | ({} if limit is None else {"weight_chunk_bytes": limit})
    weights = granularity * size * sum(expected)
    rules = {"granularity": granularity}
    case = Layered([[[]]], 0, size, weights=weights, weight_reads=read, placement=placement, rules=rules)
    found = read_case(case.expanded, case.rows)
    ids = -(-len(expected) // 64) * 64
    assert found.first == ids
    assert found.lives[0].chunks.tolist() == expected + [0] * (ids - len(expected))
    assert found.weight_bytes == 0
    assert found.weight_reads.tolist() == [read - weights]


def test_a_residency_of_weights_is_refused() -> None:
    case = dataclasses.replace(PAIR, rules={"copies": "inclusive"})
    report = case.checked({"schema": np.array("kvbound.residency/1")})
    assert report.problems == ("a residency has bits of tokens only, not of weights that may be placed",)
    few = dataclasses.replace(case, weight_reads=[1.5, 2.5])  # of less than a block: no chunks
    after = {f"after_{layer}": np.zeros_like(rows) for layer, rows in enumerate(few.rows)}
    file = {"schema": np.array("kvbound.residency/1"), "initial": np.ones((2, 2), np.uint8)} | after
    assert few.checked(file).problems == ()


def refused(expanded: dict[str, Any], case: Layered = PAIR) -> str:
    (problem,) = check(expanded, case.rows, VALID).problems
    malformed = "the expanded instance is malformed: ValueError: expected "
    assert problem.startswith(malformed)
    return problem.removeprefix(malformed)


FORM = 'llm.weights "placeable", or no such field'
SIZE = "weight_chunk_bytes, an integer >= 1, with placeable weights only"


@pytest.mark.parametrize("value", ["resident", "", "Placeable", None, True, 1, ["placeable"], {}])
def test_other_weights_than_placeable_are_refused(value: Any) -> None:
    assert refused(PAIR.edited(("llm", "weights"), value)) == FORM


@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "5", [5], 2**61])
def test_other_sizes_of_chunks_are_refused(value: Any) -> None:
    assert refused(PAIR.edited(("llm", "weight_chunk_bytes"), value)) == SIZE


def test_what_weights_may_not_be_combined_with_is_refused() -> None:
    assert refused(PAIR.edited(("llm", "weights"), ...)) == SIZE
    none = PAIR.edited(("llm", "kv_bytes_per_token_layer"), [2, 0])
    assert refused(none) == "KV in every layer with placeable weights"
    formats = PAIR.edited(("formats",), {"t1": {"bytes": [2, 3]}})
    assert refused(formats) == "no formats of tiers with placeable weights"
    few = PAIR.edited(("llm", "weight_bytes"), 8)
    assert refused(few) == "weight_bytes of at least all chunks of weights"
    enough = PAIR.edited(("llm", "weight_bytes"), 8.5)  # rounded up to 4 + 2 + 3
    assert "another instance" in check(enough, PAIR.rows, VALID | made("0" * 64)).problems[0]
    study = {"copies": "inclusive", "timing": "parallel", "accounting": "fang2025"}
    case = dataclasses.replace(PAIR, sizes=2, rules=study)
    (problem,) = case.checked({"schema": np.array("kvbound.schedule-fang2025/1")}).problems
    assert problem.endswith("expected resident weights under accounting fang2025")


def made(sha256: str) -> dict[str, Any]:
    return {"instance_sha256": np.array(sha256)}


@pytest.mark.parametrize(
    ("read", "size", "limit", "fine"),
    [(4096.9, 1, 1, True), (4097.0, 1, 1, False), (2 * 4096.0 + 1, 1, 2, False), (8193.0, 2, 1, True)],
)
def test_a_layer_has_at_most_4096_chunks(read: float, size: int, limit: int, fine: bool) -> None:
    case = Layered(
        [[[], []]], 0, size, weights=10**5, weight_reads=[1.0, read],
        placement=PLACEABLE | {"weight_chunk_bytes": limit},
    )  # fmt: skip
    if fine:
        assert read_case(case.expanded, case.rows).first == 4096
    else:
        assert refused(case.expanded, case) == "at most 4096 chunks of weights in a layer"


@pytest.mark.parametrize("read", [2.0**60 * 1.01, 1e300])
def test_absurdly_large_weights_are_refused(read: float) -> None:
    expanded = PAIR.edited(("llm", "weight_read_bytes_per_layer"), [read, 1.0])
    assert refused(expanded).startswith("at most 1152921504606846976 bytes of placeable weights")


def test_the_hash_covers_weights() -> None:
    body = PAIR.expanded
    del body["name"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).replace(".0", "")
    assert '"weight_chunk_bytes":5,"weight_read_bytes_per_layer":[7.5,3],"weights":"placeable"' in text
    report = PAIR.checked(VALID)
    assert report.ok
    assert report.instance_sha256 == hashlib.sha256(text.encode()).hexdigest()
    own = VALID | made(PAIR.sha256)
    for way, value in ((("llm", "weight_chunk_bytes"), 4), (("llm", "weight_chunk_bytes"), ...)):
        assert "another instance" in check(PAIR.edited(way, value), PAIR.rows, own).problems[0]
    both = copy.deepcopy(PAIR.expanded)
    del both["llm"]["weights"], both["llm"]["weight_chunk_bytes"]
    assert "another instance" in check(both, PAIR.rows, own).problems[0]


# Results


@pytest.mark.parametrize(
    ("capacity", "sure"),
    [
        ((6, 0), True),  # the chunk finds room wherever the tokens are
        ((5, 4), True),
        ((4, 4), False),  # not if each tier holds a token
        ((5, 0), False),
        ((3, 3), False),
        ((0, None), True),
    ],
)
def test_infeasible_is_refused_where_chunks_and_tokens_fit_in_any_order(capacity: Any, sure: bool) -> None:
    """A chunk as large as four tokens of one byte, and two tokens, beside no other weights."""
    case = Layered(
        [[[]]], 2, 1, weights=4, weight_reads=4.0, trace=STILL, placement=PLACEABLE, capacity=capacity
    )
    document = infeasible(case)
    document["instance"]["reads"] = 4
    found = check_result(case.expanded, case.rows, document).problems
    sentence = "status is 'infeasible', but there is room for the weights and for every block"
    assert found == ((sentence,) if sure else ())
    document["instance"] |= {"reads": 1, "prefill_tokens": T + 2, "tokens": T + 2}
    assert check_result(case.expanded, case.rows, document).problems[:3] == (
        f"instance.prefill_tokens is claimed to be {T + 2}, but is 2",
        "instance.reads is claimed to be 1, but is 4",
        f"instance.tokens is claimed to be {T + 2}, but is 2",
    )


def test_room_for_large_weights_is_counted_in_integers_of_any_size() -> None:
    large = 2**60
    case = Layered(
        [[[]] * 20], 1, 1, weights=20 * large, weight_reads=float(large), trace=STILL, placement=PLACEABLE,
        capacity=(0, 20 * large + 20),
    )  # fmt: skip
    over = with_capacity(case, 0, 20 * large + 19)
    arrays = case.schedule(start(case, [[1]] * 20, [[1]] * 20))
    assert case.checked(arrays).problems == ()
    assert case.checked(arrays).peak_bytes == (0, 20 * large + 20)
    assert over.checked(arrays).problems == (
        f"at the start: tier t1 holds {20 * large + 20} bytes, 1 over its capacity (and 20 more like it)",
    )
    reads = f"instance.reads is claimed to be 0, but is {20 * large}"
    for each, more in ((case, ("status",)), (over, ())):
        found = check_result(each.expanded, each.rows, infeasible(each)).problems
        assert (found[0], *(problem.split()[0] for problem in found[1:])) == (reads, *more)
    filled = dataclasses.replace(case, rules={"initial": "prefill-first"}, capacity=(19 * large + 21, large))
    tiers = [[0]] * 19 + [[1]]
    assert filled.checked(filled.schedule(start(case, [[0]] * 20, tiers))).problems == ()
