"""Results refuse contradictory fields, and their JSON is complete."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvbound
from kvbound.identity import InstanceId
from kvbound.result import (
    Bound,
    BoundStatus,
    Limit,
    Measures,
    Reason,
    Result,
    Status,
    Termination,
)
from tests.strategies import tiny_instance

ABOUT = InstanceId(
    "toy", "5" * 64, layers=2, prefill_tokens=3, decode_steps=8, tokens=11, ids=11, outputs=8, reads=40
)
FIELDS = {
    "schema", "kvbound_version", "instance", "method", "seed", "options", "status", "termination", "time_s",
    "bound", "gap", "share_of_bound", "tokens_per_s", "tokens_per_s_bound", "tpot_s", "hit_rate",
    "hit_rate_with_weights", "moved_bytes", "utilisation", "energy_j",
    "energy_per_token_j", "peak_bytes", "wall_s",
    "peak_rss_bytes", "kernel",
}  # fmt: skip


def measures(time_s: float = 2.0) -> Measures:
    return Measures(
        time_s, {"mean": time_s / 8}, {"hbm": 0.75, "lpddr": 0.25}, 0.9, {"up": 64, "down": 0}, {"hbm": 128}
    )


def claimed(time_s: float) -> Bound:
    return Bound(time_s, BoundStatus.CLAIMED, "relax")


def result(**fields: Any) -> Result:
    given: dict[str, Any] = {"instance": ABOUT, "method": "lru", "status": Status.FEASIBLE}
    return Result(**(given | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"status": Status.OPTIMAL, "measures": measures()}, "an optimal result"),
        ({"status": Status.OPTIMAL, "bound": claimed(1.0)}, "an optimal result"),
        ({"status": Status.FEASIBLE}, "a feasible result"),
        ({"status": Status.INFEASIBLE, "measures": measures()}, "an infeasible result"),
        ({"measures": measures(2.0), "bound": claimed(2.1)}, "below its own lower bound"),
        ({"measures": measures(0.0), "bound": claimed(1e-3)}, "below its own lower bound"),
    ],
)
def test_contradictions(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result(**fields)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
def test_times_and_bounds_are_numbers_of_seconds(value: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        claimed(value)
    with pytest.raises(ValueError, match="finite and not negative"):
        measures(value)


def test_a_bound_has_a_value_exactly_when_it_is_certified_or_claimed() -> None:
    assert Bound().time_s is None
    for time_s, status in [
        (None, BoundStatus.CLAIMED),
        (None, BoundStatus.CERTIFIED),
        (1.0, BoundStatus.NONE),
    ]:
        with pytest.raises(ValueError, match="exactly when"):
            Bound(time_s, status)


@given(st.floats(1e-9, 1e9), st.floats(0, 1))
def test_gap_is_the_share_of_the_time_above_the_bound(time_s: float, share: float) -> None:
    found = result(measures=measures(time_s), bound=claimed(time_s * (1 - share)))
    assert found.gap == pytest.approx(share, abs=1e-9)
    assert found.to_json()["gap"] == found.gap
    assert found.to_json()["tokens_per_s"] == pytest.approx(8 / time_s)


def test_rounding_is_no_contradiction() -> None:
    assert result(measures=measures(2.0), bound=claimed(2.0 * (1 + 1e-12))).gap == pytest.approx(0, abs=1e-11)


def test_gap_is_none_when_a_side_is_missing() -> None:
    assert result(measures=measures()).gap is None
    assert result(status=Status.UNKNOWN, bound=claimed(1.0)).gap is None


def test_a_limit_is_named_exactly_when_one_was_reached() -> None:
    for reason, limit in [(Reason.LIMIT, None), (Reason.DONE, Limit.TIME), (Reason.INTERRUPTED, Limit.WORK)]:
        with pytest.raises(ValueError, match="limit"):
            Termination(reason, limit)


@pytest.mark.parametrize(
    ("termination", "document"),
    [
        (Termination(), {"reason": "done", "limit": None}),
        (Termination(Reason.LIMIT, Limit.SOLVER), {"reason": "limit", "limit": "solver"}),
        (Termination(message="the weights do not fit"), {"reason": "done", "limit": None}),
    ],
)
def test_why_it_ended_as_json(termination: Termination, document: dict[str, str | None]) -> None:
    assert result(measures=measures(), termination=termination).to_json()["termination"] == document


def test_a_stronger_bound_changes_nothing_else() -> None:
    found = result(measures=measures(), seed=3, termination=Termination(Reason.LIMIT, Limit.TIME))
    better = found.with_bound(claimed(1.5))
    assert better.gap == pytest.approx(0.25)
    assert dataclasses.replace(better, bound=found.bound) == found


@pytest.mark.parametrize(
    "found",
    [
        result(measures=measures(), bound=claimed(1.0), options={"window": 5}),
        result(measures=measures()),
        result(status=Status.UNKNOWN, bound=Bound(1.0, BoundStatus.CERTIFIED, "dual")),
        result(status=Status.INFEASIBLE, instance=dataclasses.replace(ABOUT, sha256=None)),
    ],
)
def test_json_has_every_field_and_is_json(found: Result) -> None:
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(document) == FIELDS
    assert document["schema"] == "kvbound.result/1"
    assert document["kvbound_version"] == kvbound.__version__
    assert document["instance"] == found.instance.to_json()
    assert (document["status"], document["time_s"]) == (str(found.status), found.time_s)
    assert document["bound"]["time_s"] == found.bound.time_s
    assert (document["gap"] is None) == (found.gap is None)
    assert (document["tpot_s"] is None) == (found.measures is None)
    assert document["peak_rss_bytes"] > 1 << 20


def test_the_document_stays_the_same_however_much_memory_is_used_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = result(measures=measures())
    first = found.to_json()
    monkeypatch.setattr("kvbound.result.peak_rss_bytes", lambda: 1)
    assert found.to_json() == first


def test_simulated_results_are_json_too() -> None:
    instance = tiny_instance(np.random.default_rng(5))
    for policy in ("lru", "best"):
        document = json.loads(json.dumps(kvbound.simulate(instance, policy).to_json(), allow_nan=False))
        assert set(document) == FIELDS
        assert set(document["instance"]) == {
            "name", "sha256", "layers", "prefill_tokens", "decode_steps", "reads"
        }  # fmt: skip
