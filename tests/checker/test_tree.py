"""The checker's verification of trees: their form, their leaves' bounds, and mutations of both."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.certificate import FULL
from kvbound.checker import Report, check
from kvbound.instance import Instance
from kvbound.solvers.reference.brute_force import solve_brute
from kvbound.solvers.tree.search import TreeSearch
from kvbound.tree import COUNT, STATE, TOUCH, Question
from tests.cost_cases import toy
from tests.instance_documents import llm, two_tiers
from tests.strategies import rule_combinations, tiny_instance, with_overlap

Arrays = dict[str, Any]


def checked(instance: Instance, arrays: Arrays, **more: Any) -> Report:
    return check(instance.expanded(), instance.token_trace.arrays, arrays, **more)


@pytest.fixture(scope="module")
def proved() -> tuple[Instance, Arrays]:
    """An instance and a tree with questions of both kinds that proves its optimum."""
    instance = kv.read_instance("tiny-three-exclusive")
    known = kv.simulate(instance, "belady")
    assert known.schedule is not None
    assert known.measures is not None
    tree = TreeSearch(instance, (known.schedule, known.measures), work=50).run().tree
    assert {STATE, COUNT} <= set(tree.questions[:, 0].tolist())
    return instance, tree.arrays()


def inner(arrays: Arrays, kind: int | None = None) -> int:
    """The last inner node, of a kind if one is given."""
    found = np.flatnonzero((arrays["certificate"] < 0) & ((kind is None) | (arrays["kind"] == kind)))
    return int(found[-1])


def changed(arrays: Arrays, name: str, node: int, value: int) -> Arrays:
    values = arrays[name].copy()
    values[node] = value
    return arrays | {name: values}


def test_accepts_and_returns_the_bound(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    report = checked(instance, arrays)
    assert report.ok
    assert report.bound_s is not None
    assert arrays["bound_s"] <= report.bound_s <= arrays["bound_s"] * (1 + 1e-9)
    optimum = solve_brute(instance).time_s
    assert report.bound_s == pytest.approx(optimum, rel=1e-9)
    above = math.nextafter(report.bound_s, math.inf)
    for claim, ok in ((report.bound_s, True), (above, False), (math.nan, False), (math.inf, False)):
        assert checked(instance, arrays, claimed_s=claim).ok is ok
        assert checked(instance, arrays | {"bound_s": np.float64(claim)}).ok is ok


def test_one_leaf_is_a_certificate() -> None:
    instance = kv.read_instance("tiny-on-read")
    bound = kv.bound(instance, work=50)
    assert bound.certificate is not None
    one = bound.certificate.arrays()
    none = {name: np.full(1, -1) for name in ("parent", "answer", *Question._fields)}
    stacked = {name: np.array([one[name]]) for name in ("scale", "capacity", "prices", "whole", "theta")}
    tree = one | none | stacked | {
        "schema": np.array("kvbound.tree/1"), "certificate": np.zeros(1, np.int64), "split": one["tier"],
    }  # fmt: skip
    alone, whole = checked(instance, one), checked(instance, tree)
    assert whole.ok
    assert whole.bound_s == alone.bound_s


def test_a_leaf_dropped_is_refused(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    nodes = len(arrays["parent"])
    for node in np.flatnonzero(arrays["certificate"] >= 0).tolist():
        kept = np.arange(nodes) != node
        fewer = {
            name: values[kept] if np.shape(values)[:1] == (nodes,) else values
            for name, values in arrays.items()
        }
        fewer["parent"] = fewer["parent"] - (fewer["parent"] > node)
        report = checked(instance, fewer)
        assert "one child for each answer" in report.problems[0]
        assert report.bound_s is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("answer", None, "one child for each answer"), ("answer", 2, "answers 0 and 1"),
     ("answer", -1, "answers 0 and 1"), ("parent", -1, "after its parent"),
     ("parent", 10**6, "after its parent"),
     ("certificate", -1, "one child for each answer"), ("certificate", -2, "one child for each answer"),
     ("certificate", 10**6, "certificates numbered"), ("parent", "own", "after its parent")],
)  # fmt: skip
def test_what_is_no_tree_is_refused(
    proved: tuple[Instance, Arrays], name: str, value: int | str | None, expected: str
) -> None:
    instance, arrays = proved
    node = int(np.flatnonzero(arrays["certificate"] >= 0)[-1])
    if value is None:
        value = 1 - int(arrays["answer"][node])
    report = checked(instance, changed(arrays, name, node, node if value == "own" else int(value)))
    assert expected in report.problems[0]
    assert report.bound_s is None


def test_a_cycle_and_a_missing_root_are_refused(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    below = inner(arrays)
    assert below > 0
    cycle = changed(changed(arrays, "parent", int(arrays["parent"][below]) or below, below), "parent", 0, -1)
    assert "after its parent" in checked(instance, cycle).problems[0]
    assert "a root" in checked(instance, changed(arrays, "parent", 0, 0)).problems[0]
    empty = {
        name: values[:0] if np.shape(values)[:1] == arrays["parent"].shape else values
        for name, values in arrays.items()
    }
    assert "a root" in checked(instance, empty).problems[0]


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (STATE, "kind", 7, "a kind"), (STATE, "kind", -1, "a kind"), (STATE, "layer", 1, "a layer"),
        (STATE, "layer", -1, "a layer"), (STATE, "step", 99, "a step"), (STATE, "step", -2, "a step"),
        (STATE, "block", 99, "a block of the layer"), (STATE, "block", -1, "a block of the layer"),
        (STATE, "tier", 3, "a tier"), (STATE, "tier", -1, "a tier"), (STATE, "block", 6, "that exists"),
        (COUNT, "step", -1, "a slot"), (COUNT, "tier", 0, "slots are split"), (COUNT, "layer", 4, "a layer"),
    ],
)  # fmt: skip
def test_questions_about_what_does_not_exist_are_refused(
    proved: tuple[Instance, Arrays], kind: int, name: str, value: int, expected: str
) -> None:
    instance, arrays = proved
    node = inner(arrays, kind)
    if (name, value) == ("block", 6):  # born in the last step
        arrays = changed(arrays, "step", node, -1)
    report = checked(instance, changed(arrays, name, node, value))
    assert expected in report.problems[0], report.problems
    assert f"node {node}" in report.problems[0]
    assert report.bound_s is None


def test_questions_about_what_does_not_wait_are_refused() -> None:
    """Of the two tiers of the instance only the second one has a latency, and only the first layer has KV."""
    memory = two_tiers(4, 1, 5)
    memory["tiers"][1]["latency"] = 0.25
    model = llm(2) | {"kv_bytes_per_token_layer": [1, 0]}
    instance = toy(memory=memory, llm=model, trace={"prefill_tokens": 2, "reads": [[[0], []], [[1], []]]})
    tree = random_tree(instance, np.random.default_rng(0), 1)
    one = {name: values[:1] for name, values in tree.items() if name in ("parent", "answer", "certificate")}
    for question, expected in (
        (Question(TOUCH, 0, 0, 0, 0), "a tier with a latency"),
        (Question(TOUCH, 0, 1, 0, 1), "a layer with KV"),
        (Question(TOUCH, -1, 0, 0, 1), "a slot"),
        (Question(TOUCH, 0, 0, 0, 1), ""),
    ):
        asked = np.array([question, (-1,) * 6, (-1,) * 6], np.int64).T
        nodes = {"parent": np.array([-1, 0, 0]), "answer": np.array([-1, 0, 1])}
        nodes["certificate"] = np.array([-1, 0, 0])
        arrays = tree | one | nodes | dict(zip(Question._fields, asked, strict=True))
        report = checked(instance, arrays | {"bound_s": np.float64(-1e300)})
        assert report.ok == (not expected), report.problems
        assert not expected or expected in report.problems[0]


@pytest.mark.parametrize("name", ["prices", "capacity", "theta", "scale"])
def test_changed_multipliers_do_not_prove_the_claim(proved: tuple[Instance, Arrays], name: str) -> None:
    instance, arrays = proved
    report = checked(instance, arrays | {name: arrays[name] + 2 if name == "scale" else arrays[name] // 2})
    assert not report.ok
    assert report.bound_s is None or report.bound_s < arrays["bound_s"]


def test_a_price_changed_and_a_higher_claim_are_refused(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    rng, optimum = np.random.default_rng(5), solve_brute(instance).time_s or 0.0
    for _ in range(30):
        prices = arrays["prices"].copy()
        entry = tuple(rng.integers(prices.shape))
        prices[entry] += rng.integers(-(2**42), 2**42)
        claim = {"bound_s": np.float64(1.001 * optimum)}
        report = checked(instance, arrays | {"prices": prices} | claim)
        assert not report.ok
        assert report.bound_s is not None
        assert report.bound_s <= optimum * (1 + 1e-12)


def test_questions_matter(proved: tuple[Instance, Arrays]) -> None:
    """With another answer to a question of its path, some leaf proves less than is claimed."""
    instance, arrays = proved
    refused = 0
    for node in np.flatnonzero(arrays["certificate"] < 0).tolist():
        swapped = arrays["answer"].copy()
        children = arrays["parent"] == node
        swapped[children] = 1 - swapped[children]
        refused += not checked(instance, arrays | {"answer": swapped}).ok
    assert refused >= 2


def test_another_instance_and_a_foreign_schema_are_refused(proved: tuple[Instance, Arrays]) -> None:
    _, arrays = proved
    assert "another instance" in checked(kv.read_instance("tiny-three"), arrays).problems[0]
    instance = proved[0]
    assert not checked(instance, arrays | {"instance_sha256": np.array("0" * 64)}).ok
    assert "schema" in checked(instance, arrays | {"schema": np.array("kvbound.tree/2")}).problems[0]


@pytest.mark.parametrize(
    "name", ["parent", "answer", *Question._fields, "certificate", "split", "scale", "prices", "theta"]
)
def test_missing_and_misshapen_fields_are_refused(proved: tuple[Instance, Arrays], name: str) -> None:
    instance, arrays = proved
    for wrong in ({}, {name: arrays[name].astype(np.float64)}, {name: arrays[name][None]}):
        report = checked(instance, {k: v for k, v in arrays.items() if k != name} | wrong)
        assert len(report.problems) == 1
        assert name in report.problems[0]


def random_tree(instance: Instance, rng: np.random.Generator, split: int) -> Arrays:
    """A random tree of valid questions over random certificates, which all prove something."""
    from tests.checker.test_certificate import any_multipliers

    nodes: list[tuple[int, int, Question | None]] = [(-1, -1, None)]
    life = instance.grouping
    for _ in range(int(rng.integers(0, 6))):
        leaf = int(rng.choice([n for n, node in enumerate(nodes) if node[2] is None]))
        layer, timed = int(rng.integers(instance.layers)), not instance.by_step
        late = [k for k, tier in enumerate(instance.memory.tiers) if tier.latency]
        if late and rng.random() < 0.4:
            step = int(rng.integers(instance.decode_steps))
            asked = Question(TOUCH, step, layer * timed, 0, int(rng.choice(late)))
        elif rng.random() < 0.5:
            step = int(rng.integers(instance.decode_steps))
            asked = Question(COUNT, step, layer * timed, 0, split, int(rng.integers(-1, 4)))
        else:
            step = int(rng.integers(-1, instance.decode_steps))
            exist = np.flatnonzero((life.born <= step) & (step < life.last[layer]))
            if not exist.size:
                continue
            asked = Question(STATE, step, layer, int(rng.choice(exist)), int(rng.integers(instance.tiers)))
        nodes[leaf] = (*nodes[leaf][:2], asked)
        nodes += [(leaf, 0, None), (leaf, 1, None)]
    drawn = [any_multipliers(instance, rng) for _ in range(3)]
    shape = drawn[0]["theta"].shape
    drawn = [each for each in drawn if each["theta"].shape == shape]
    names = ["scale", "capacity", "prices", "whole", "theta"]
    names += ["whole_writes"] if "whole_writes" in drawn[0] else []
    questions = [node[2] or (-1,) * 6 for node in nodes]
    return drawn[0] | {
        "schema": np.array("kvbound.tree/1"),
        "parent": np.array([node[0] for node in nodes]),
        "answer": np.array([node[1] for node in nodes]),
        **dict(zip(Question._fields, np.array(questions, np.int64).T, strict=True)),
        "certificate": np.array([-1 if node[2] else int(rng.integers(len(drawn))) for node in nodes]),
        "split": np.int64(split),
        **{name: np.stack([each[name] for each in drawn]) for name in names},
    }


@pytest.mark.parametrize("number", range(96))
def test_any_tree_proves_no_more_than_the_optimum(number: int) -> None:
    rng = np.random.default_rng([10, number])
    rules = rule_combinations()[number]
    instance = with_overlap(rng, tiny_instance(rng, batch=bool(rng.integers(2)), **rules))
    optimum = solve_brute(instance).time_s
    assert optimum is not None
    for _ in range(6):
        report = checked(instance, random_tree(instance, rng, int(rng.integers(instance.tiers))))
        assert report.problems == ()
        assert report.bound_s is not None
        assert report.bound_s <= optimum * (1 + 1e-12)


def two_questions(arrays: Arrays, first: Question, second: Question, bad: int) -> Arrays:
    """A tree that asks `first` and, if yes, `second`; its leaf `bad` has multipliers that prove nothing."""
    poor = arrays["capacity"].copy()
    poor[0] += 2**40
    stacks = {
        name: np.stack([arrays[name]] * 2) for name in ("scale", "capacity", "prices", "whole", "theta")
    }
    stacks["capacity"][1] = poor
    certificate = np.array([-1, 0, -1, 0, 0])
    certificate[bad] = 1
    questions = np.full((5, 6), -1)
    questions[0], questions[2] = first, second
    return arrays | stacks | {
        "schema": np.array("kvbound.tree/1"), "split": arrays["tier"], "certificate": certificate,
        "parent": np.array([-1, 0, 0, 2, 2]), "answer": np.array([-1, 0, 1, 0, 1]),
        **dict(zip(Question._fields, questions.T, strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "contradiction"),
    [
        (Question(STATE, 0, 0, 1, 0), Question(STATE, 0, 0, 1, 1), 4),  # in both tiers
        (Question(COUNT, 1, 0, 0, 1, 1), Question(COUNT, 1, 0, 0, 1, 0), 3),  # more than one, and none
    ],
)
def test_a_leaf_with_contradictory_answers_is_closed(
    first: Question, second: Question, contradiction: int
) -> None:
    instance = kv.read_instance("tiny-on-read")
    certificate = kv.bound(instance, work=200).certificate
    assert certificate is not None
    for leaf in (1, 3, 4):
        report = checked(instance, two_questions(certificate.arrays(), first, second, leaf))
        assert report.bound_s is not None
        assert report.ok == (leaf == contradiction)
        assert (report.bound_s >= certificate.bound_s) == (leaf == contradiction)


def test_numbers_of_paths_are_limited(proved: tuple[Instance, Arrays]) -> None:
    """Prices of closed states are above all others."""
    instance, arrays = proved
    huge = arrays["prices"].copy()
    huge[0, 0] = 2**61
    assert "malformed" in checked(instance, arrays | {"prices": huge}).problems[0]


def test_full_weights_are_the_most(proved: tuple[Instance, Arrays]) -> None:
    instance, arrays = proved
    assert "theta" in checked(instance, arrays | {"theta": arrays["theta"] + FULL}).problems[0]


def test_results_name_the_tree(proved: tuple[Instance, Arrays]) -> None:
    instance, _ = proved
    result = kv.solve(instance, "exact")
    assert result.proof is not None
    assert kv.check(instance, result.proof).ok
    assert kv.check(instance, dataclasses.replace(result, placement=None, certificate=None)).ok
