"""Each false claim of a result is named in a sentence; malformed documents are told from false ones."""

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvbound.checker import Malformed, Report, check, check_result
from kvbound.instance import Instance
from kvbound.instance_io import read_instance
from kvbound.placement import write_placement
from kvbound.result import Result
from kvbound.solvers.portfolio import solve
from kvbound.trace.batch import batch
from tests.strategies import tiny_instance, tiny_trace

UNVERIFIED = {
    "kvbound_version", "instance.name", "method", "seed", "options", "options.gap", "options.sample",
    "termination", "termination.reason", "termination.limit", "bound.method", "wall_s",
    "peak_rss_bytes", "kernel",
}  # fmt: skip
"""Fields that depend on neither the instance nor the files."""
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**400,
    1e9,
    "",
    "text",
    "0" * 64,
    [],
    [1],
    {},
    {"a": 1},
    float("nan"),
    "\ud800",
)


def reports(instance: Instance, result: Result) -> dict[str, Report | None]:
    rows, found = instance.trace.rows, dict[str, Report | None]()
    if result.schedule is not None:
        how = {"instance_sha256": instance.sha256, "tokens": instance.tokens}
        found["schedule"] = check(instance.expanded(), rows, result.schedule.arrays(**how))  # type: ignore[arg-type]
    if result.certificate is not None:
        found["certificate"] = check(instance.expanded(), rows, result.certificate.arrays())
    if result.proof is not None:
        found["proof"] = check(instance.expanded(), rows, result.proof.arrays())
    return found


def problems(instance: Instance, document: object, beside: dict[str, Report | None]) -> tuple[str, ...]:
    labels: Any = instance.timeline.sequence
    return check_result(instance.expanded(), instance.trace.rows, document, labels=labels, **beside).problems


@pytest.fixture(scope="module")
def case() -> tuple[Instance, dict[str, Any], dict[str, Report | None]]:
    instance = read_instance("tiny-on-read")
    result = solve(instance, "pricing", time_limit=1)
    return instance, json.loads(json.dumps(result.to_json())), reports(instance, result)


@pytest.mark.parametrize("method", ["lru", "belady", "exact", "pricing", "dual", "relax", "anneal", "best"])
def test_what_methods_say_is_accepted(method: str) -> None:
    for seed in range(3):
        instance = tiny_instance(np.random.default_rng(seed), granularity=1)
        options: dict[str, Any] = {} if method in ("lru", "belady", "best") else {"time_limit": 0.5}
        result = solve(instance, method, **options)
        assert problems(instance, result.to_json(), reports(instance, result)) == ()


@pytest.mark.parametrize("method", ["static", "reactive", "page", "lookahead-one", "sa-guided", "best"])
def test_what_the_published_policies_say_is_accepted(method: str, tmp_path: Any) -> None:
    for name in ("tiny-on-read", "tiny-own-reads"):
        instance = read_instance(name).with_rules(accounting="fang2025", granularity=1, migration="on-read")
        result = solve(instance, method, record=True)
        beside: dict[str, Report | None] = {}
        if result.placement is not None:
            sha256, tokens = instance.sha256, instance.tokens
            write_placement(result.placement, tmp_path / "log.npz", instance_sha256=sha256, tokens=tokens)
            beside["schedule"] = check(instance.expanded(), instance.trace.rows, tmp_path / "log.npz")
        document = result.to_json()
        assert problems(instance, document, beside) == ()
        assert problems(instance, document | {"time_s": (document["time_s"] or 1.0) * 1.01}, beside)


def sequences(rng: np.random.Generator, size: int) -> Instance:
    """An instance of two or three sequences that are decoded together, with blocks of some size."""
    like = tiny_instance(rng, granularity=size)
    lengths = rng.integers(1, 4, (int(rng.integers(2, 4)), 2)).tolist()
    starts = [0, *rng.integers(0, 3, len(lengths) - 1).tolist()]
    workload = batch([tiny_trace(rng, like.layers, *length) for length in lengths], starts)
    last = dataclasses.replace(like.memory.tiers[-1], capacity=None)
    memory = dataclasses.replace(like.memory, tiers=(*like.memory.tiers[:-1], last))
    return dataclasses.replace(like, workload=workload, memory=memory)


def paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items():
        yield (*above, key)
        if isinstance(item, dict):
            yield from paths(item, (*above, key))


def mutated(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The document with another value at a path, or without that field if the value is `...`."""
    copied = copy.deepcopy(document)
    at = copied
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return copied


def test_a_field_with_a_wrong_value_is_malformed_or_false(case: Any) -> None:
    instance, document, beside = case
    assert problems(instance, document, beside) == ()
    for path in paths(document):
        for wrong in (*WRONG, ...):
            changed = mutated(document, path, wrong)
            if changed == document:
                continue
            try:
                found = bool(problems(instance, changed, beside))
            except Malformed as error:
                found = error.field.startswith(path[0])
            # early results did not have these fields
            optional = wrong is ... and path in (
                ("share_of_bound",),
                ("utilisation",),
                ("energy_per_token_j",),
            )
            assert found or optional or ".".join(path) in UNVERIFIED, (path, wrong)


def test_documents_that_are_no_result_are_malformed(case: Any) -> None:
    instance, _, beside = case
    for wrong in WRONG:
        with pytest.raises(Malformed):
            problems(instance, wrong, beside)


def test_unknown_fields_are_ignored(case: Any) -> None:
    instance, document, beside = case
    assert problems(instance, document | {"new": None}, beside) == ()
    share = document["bound"]["time_s"] / document["time_s"]
    assert problems(instance, document | {"share_of_bound": share}, beside) == ()
    assert problems(instance, document | {"share_of_bound": share / 2}, beside)


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_every_changed_number_is_named(case: Any, factor: float) -> None:
    instance, document, beside = case
    for path in paths(document):
        value: Any = document
        for key in path:
            value = value[key]
        # a lower bound is proved all the more, so that only the gap is wrong
        lowered = path == ("bound", "time_s") and factor < 1
        if isinstance(value, int | float) and value and ".".join(path) not in UNVERIFIED:
            other = value * factor if isinstance(value, float) else value + 1
            found = problems(instance, mutated(document, path, other), beside)
            assert found
            assert lowered or any(sentence.startswith((".".join(path), path[0])) for sentence in found)


def test_a_certified_bound_needs_a_certificate_that_proves_it(case: Any) -> None:
    instance, document, beside = case
    assert "no certificate" in problems(instance, document, beside | {"certificate": None})[0]
    weaker = dataclasses.replace(beside["certificate"], bound_s=document["bound"]["time_s"] / 2)
    assert "proves only" in problems(instance, document, beside | {"certificate": weaker})[0]
    stronger = dataclasses.replace(beside["certificate"], bound_s=document["bound"]["time_s"] * 1.001)
    assert problems(instance, document, beside | {"certificate": stronger}) == ()


def test_a_claimed_bound_is_not_above_the_schedule(case: Any) -> None:
    instance, document, beside = case
    high = mutated(document, ("bound",), {"time_s": 1e9, "status": "claimed", "method": "exact"})
    assert any("above the schedule's time" in sentence for sentence in problems(instance, high, beside))


def test_the_status_must_match_the_schedule_and_the_bound(case: Any) -> None:
    instance, document, beside = case
    for status in ("infeasible", "unknown"):
        assert problems(instance, document | {"status": status}, beside)
    far = mutated(document, ("bound", "time_s"), document["time_s"] / 2)
    far |= {"gap": 0.5, "tokens_per_s_bound": 2 * document["tokens_per_s"], "options": {}}
    far |= {"share_of_bound": 0.5}
    assert problems(instance, far | {"status": "feasible"}, beside) == ()
    assert "do not meet" in problems(instance, far | {"status": "optimal"}, beside)[0]
    # not even where the options ask for such a gap
    assert (
        "do not meet" in problems(instance, far | {"status": "optimal", "options": {"gap": 0.6}}, beside)[0]
    )


def test_results_that_the_exact_model_calls_optimal_are_accepted() -> None:
    instance = read_instance("swap-2x48-c30-b450")
    for gap in (0.3, 1e-4):
        result = solve(instance, "exact", gap=gap, time_limit=5)
        assert (result.status == "optimal") == (result.gap is not None and result.gap <= 1e-4)
        assert problems(instance, result.to_json(), reports(instance, result)) == ()


def test_a_bound_without_a_schedule_is_at_most_what_the_certificate_proves() -> None:
    instance = read_instance("tiny-on-read")
    result = solve(instance, "dual", work=20)
    high = result.to_json() | {"bound": {"time_s": 1e9, "status": "claimed", "method": "dual"}}
    high |= {"tokens_per_s_bound": instance.decode_steps / 1e9}
    assert "proves only" in problems(instance, high, reports(instance, result))[0]


def test_infeasible_is_refused_where_everything_fits() -> None:
    instance = read_instance("tiny-on-read")
    result = solve(instance, "best").to_json()
    none = {"bound": {"time_s": None, "status": "none", "method": None}, "tokens_per_s_bound": None}
    assert "there is room" in problems(instance, result | none | {"status": "infeasible"}, {})[0]
    heavy = dataclasses.replace(instance, llm=dataclasses.replace(instance.llm, weight_bytes=2**50))
    assert problems(heavy, solve(heavy, "lru").to_json(), {}) == ()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_infeasible_is_accepted_only_where_the_blocks_do_not_fit(seed: int, batch: bool) -> None:
    """With a limited last tier as well, and a few blocks at a time that just fit or just do not."""
    rng = np.random.default_rng(seed)
    instance = tiny_instance(rng, granularity=int(rng.integers(1, 3)), batch=batch)
    size = instance.granularity * instance.unit_sizes[0]
    blocks = instance.most_held
    weights = instance.llm.weight_bytes
    sizes = [
        weights + size * int(rng.integers(0, 3)),
        *(size * max(int(n), 0) for n in rng.integers(blocks - 2, blocks + 1, instance.tiers - 1)),
    ]
    tiers = (
        dataclasses.replace(tier, capacity=room)
        for tier, room in zip(instance.memory.tiers, sizes, strict=True)
    )
    limited = dataclasses.replace(instance, memory=dataclasses.replace(instance.memory, tiers=tuple(tiers)))
    found = solve(limited, "brute")
    none = solve(
        dataclasses.replace(limited, llm=dataclasses.replace(limited.llm, weight_bytes=2**50)), "brute"
    )
    claims = none.to_json() | {"instance": found.to_json()["instance"]}
    assert claims["status"] == "infeasible"
    assert bool(problems(limited, claims, {})) == (found.status != "infeasible")


@pytest.mark.parametrize("seed", range(20))
def test_tokens_and_outputs_are_given_where_they_are_not_those_of_one_birth_per_step(seed: int) -> None:
    instance = tiny_instance(np.random.default_rng(seed), batch=True)
    result = solve(instance, "brute")
    document, beside = result.to_json(), reports(instance, result)
    assert problems(instance, document, beside) == ()
    outputs = int(instance.timeline.outputs.sum())
    for key, value, usual in (
        ("tokens", instance.tokens, instance.prefill_tokens + instance.decode_steps),
        ("outputs", outputs, instance.decode_steps),
    ):
        assert (key in document["instance"]) == (value != usual)
        given = mutated(document, ("instance", key), value)
        assert problems(instance, given, beside) == ()
        missing = mutated(given, ("instance", key), ...)
        assert bool(problems(instance, missing, beside)) == (value != usual)
        for wrong in (value - 1, value + 1):
            claim = mutated(given, ("instance", key), max(wrong, 0))
            expected = f"instance.{key} is claimed to be {max(wrong, 0)}, but is {value}"
            assert (problems(instance, claim, beside) == (expected,)) == (wrong >= 0)
        with pytest.raises(Malformed):
            problems(instance, mutated(document, ("instance", key), None), beside)
    if document["tokens_per_s"]:
        per_step = document | {"tokens_per_s": instance.decode_steps / document["time_s"]}
        assert bool(problems(instance, per_step, beside)) == (outputs != instance.decode_steps)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("seed", range(12))
def test_the_sequences_of_a_batch_are_recomputed(seed: int, size: int) -> None:
    instance = sequences(np.random.default_rng(seed), size)
    result = solve(instance, "lru")
    document, beside = result.to_json(), reports(instance, result)
    assert problems(instance, document, beside) == ()
    listed = document["sequences"]
    for number, entry in enumerate(listed):
        for key, value in entry.items():
            if value:
                changed = copy.deepcopy(document)
                changed["sequences"][number][key] = value * 1.001 if isinstance(value, float) else value + 1
                (sentence,) = problems(instance, changed, beside)
                assert sentence.startswith(f"sequences.{number}.{key} is claimed to be ")
    for wrong in (listed[1:], [*listed, listed[0]], []):
        assert "follow from the trace" in problems(instance, document | {"sequences": wrong}, beside)[0]
    assert any("no schedule" in each for each in problems(instance, document, {"schedule": None}))
    # early results did not have them, and other tokens need not be of other sequences
    del document["sequences"]
    assert problems(instance, document, beside) == ()
    one = instance.timeline.sequence * 0
    found = check_result(
        instance.expanded(), instance.trace.rows, document | {"sequences": listed}, labels=one, **beside
    )
    assert bool(found.problems) == (size == 1)  # with larger blocks the instance states the labels


@pytest.mark.parametrize("wrong", [{}, 1, "text", [1], [{}], [{"label": 0}], None])
def test_sequences_that_are_no_list_of_figures_are_malformed(wrong: Any) -> None:
    instance = sequences(np.random.default_rng(0), 1)
    result = solve(instance, "lru")
    with pytest.raises(Malformed) as refused:
        problems(instance, result.to_json() | {"sequences": wrong}, reports(instance, result))
    assert refused.value.field == "sequences"


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_any_births_outputs_and_labels(seed: int, every: bool) -> None:
    """The checker finds the same sequences where births are of no well-formed batch, all outputs or some."""
    instance = tiny_instance(np.random.default_rng(seed), batch=True)
    if every:
        timeline = dataclasses.replace(instance.timeline, outputs=instance.timeline.births)
        workload = dataclasses.replace(instance.trace, timeline=timeline)
        instance = dataclasses.replace(instance, workload=workload)
    result = solve(instance, "lru")
    document, beside = result.to_json(), reports(instance, result)
    assert problems(instance, document, beside) == ()
    assert ("sequences" in document) or not (every and instance.timeline.sequence.any())
    more = document | {"sequences": []}
    assert bool(problems(instance, more, beside)) == ("sequences" in document)
