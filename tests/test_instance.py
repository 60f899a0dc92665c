"""Instances: capacities in blocks, and the hash of exactly what matters to schedules."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.checker.inputs import instance_sha256
from kvbound.errors import InfeasibleError, InputError
from kvbound.instance import Instance
from kvbound.instance_io import from_mapping, make_instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.rules import Accounting, Copies, Initial, Migration, Rules, Timing, Windows
from kvbound.trace import Trace
from kvbound.workloads import Fang2025, RandomSwap
from tests.instance_documents import DOCUMENT, changed
from tests.strategies import tiny_instance, with_layers

MEMORY: dict[str, Any] = {
    "name": "toy",
    "resources": {"fast": 40.0, "link": 7.5, "slow": 10.0},
    "tiers": [
        {"name": "hbm", "capacity": 34, "reads": ["fast"], "writes": ["fast"], "latency": 0.0},
        {"name": "ddr", "capacity": None, "reads": ["link", "slow"], "writes": ["slow"], "latency": 1e-6},
    ],
}
LLM: dict[str, Any] = {
    "name": "toy", "layers": 2, "kv_bytes_per_token_layer": 4, "weight_bytes": 10,
    "weight_read_bytes_per_layer": [3.0, 2.5],
}  # fmt: skip
TRACE: dict[str, Any] = {"prefill_tokens": 2, "reads": [[[0, 1], [1]], [[0], [0, 2]], [[], [0, 1, 4]]]}
GOLDEN = "2515de9606f16047da9cf7a291adf68e991accd926835231ff3d34d57d2b703c"
seeds = st.integers(0, 2**32 - 1)


def toy(**changes: Any) -> Instance:
    parts: dict[str, Any] = {"memory": MEMORY, "llm": LLM, "trace": TRACE}
    return make_instance("toy", **(parts | changes))


def test_rules_come_back_from_their_mapping() -> None:
    for words in product(Copies, Migration, Timing, Initial, (1, 7), Accounting, Windows):
        rules = Rules(*words)
        assert Rules.from_mapping(json.loads(json.dumps(rules.to_mapping()))) == rules
    assert Rules.from_mapping({}) == Rules()


def test_rules_take_plain_words_and_whole_numbers_of_any_kind() -> None:
    rules = Rules(copies="exclusive", granularity=np.int64(4))  # type: ignore[arg-type]
    assert rules.copies is Copies.EXCLUSIVE
    assert type(rules.granularity) is int


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("copies", "both"), ("migration", None), ("timing", 1), ("initial", ""), ("accounting", "Physical"),
        ("windows", "end"), ("windows", True),
        ("granularity", 0), ("granularity", -1), ("granularity", 2.5), ("granularity", 2.0),
        ("granularity", True), ("granularity", "2"), ("granularity", 2**20 + 1),
    ],
)  # fmt: skip
def test_rules_refuse_other_words_and_numbers(field: str, value: object) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(InputError, match=rf"^rules: {field}: expected "):
        dataclasses.replace(Rules(), **changes)


def test_sizes() -> None:
    instance = toy(rules={"granularity": 2})
    assert (instance.layers, instance.prefill_tokens, instance.decode_steps) == (2, 2, 3)
    assert (instance.tokens, instance.slots, instance.tiers) == (5, 6, 2)
    assert (instance.item_bytes.tolist(), instance.unit_sizes, instance.blocks) == ([4, 4], (4, 4), 3)
    assert instance.inclusive
    assert instance.physical


def test_layers_of_trace_and_llm_must_agree() -> None:
    with pytest.raises(InputError, match=r"^toy: trace\.layers: expected 3 layers .* not 2$"):
        toy(llm=LLM | {"layers": 3, "weight_read_bytes_per_layer": 0})


@given(st.integers(0, 200), st.integers(0, 60), st.integers(1, 4), st.integers(1, 9))
def test_capacity_is_what_fits_beside_the_weights(capacity: int, weights: int, size: int, item: int) -> None:
    memory = MEMORY | {"tiers": [MEMORY["tiers"][0] | {"capacity": capacity}, MEMORY["tiers"][1]]}
    llm = LLM | {"weight_bytes": weights, "kv_bytes_per_token_layer": item}
    instance = toy(memory=memory, llm=llm, rules={"granularity": size})
    if weights > capacity:
        with pytest.raises(InfeasibleError, match="weights"):
            _ = instance.capacity_units
        return
    room, unlimited = instance.capacity_units
    assert unlimited is None
    assert room is not None
    assert weights + room * size * item <= capacity < weights + (room + 1) * size * item


@pytest.mark.parametrize("size", [1, 2, 3])
def test_feasible_to_the_last_block(size: int) -> None:
    """Five tokens in two layers: everything in the last tier (inclusive), or over all (exclusive)."""
    blocks, fast = 2 * -(-5 // size), 2
    for copies, needed in ((Copies.INCLUSIVE, blocks), (Copies.EXCLUSIVE, blocks - fast)):
        for last in (needed, needed - 1):
            tiers = [
                MEMORY["tiers"][0] | {"capacity": 10 + fast * 4 * size},
                MEMORY["tiers"][1] | {"capacity": last * 4 * size},
            ]
            rules = {"copies": copies, "granularity": size}
            instance = toy(memory=MEMORY | {"tiers": tiers}, rules=rules)
            if last == needed:
                assert instance.capacity_units == (fast, last)
            else:
                with pytest.raises(InfeasibleError, match=f"{blocks} blocks"):
                    _ = instance.capacity_units


def test_own_reads_count_only_under_the_published_accounting() -> None:
    assert toy().read_counts().tolist() == [[2, 1], [1, 2], [0, 2]]  # layer 1 reads its own token 4 at last
    assert toy(rules={"accounting": "fang2025"}).read_counts().tolist() == [[2, 1], [1, 2], [0, 3]]
    dropped = toy(trace={"prefill_tokens": 2, "reads": [[[0], [2]], [[3], [1]], [[4], []]]})
    assert dropped.read_counts().tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("kind", [Fang2025, RandomSwap])
@pytest.mark.parametrize("count", ["round(n-1)", "ceil(n+1)", "ceil(n)"])
def test_read_counts_of_synthetic_reads_without_making_them(kind: type[Any], count: str) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    rule = {name: count for name in names if "count" in name}
    spec = kind(layers=2, prefill_tokens=30, decode_steps=9, **rule)
    instance = toy(trace=spec)
    counts = instance.read_counts()
    assert "trace" not in vars(instance)
    assert np.array_equal(counts, instance.trace.past_counts())
    assert instance.trace is instance.trace


def canonical(instance: Instance) -> str:
    """The definition: canonical JSON of the expanded instance, hashed here once more."""
    expanded = instance.expanded("some/path.trace")
    del expanded["name"], expanded["trace"]["path"]
    text = json.dumps(expanded, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@given(seeds)
def test_hash_is_that_of_the_canonical_json_and_the_checkers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alike = tiny_instance(rng)
    for instance in (alike, with_layers(rng, alike)):
        assert instance.sha256 == canonical(instance)
        assert instance.sha256 == instance_sha256(instance.expanded("x"), instance.trace.row_hashes())


def test_hash_never_changes() -> None:
    """Schedules and certificates of earlier versions stay tied to their instances."""
    assert toy().sha256 == GOLDEN


SAME: dict[str, Callable[[], Instance]] = {
    "name": lambda: make_instance("other", memory=MEMORY, llm=LLM, trace=TRACE),
    "defaults": lambda: toy(rules=Rules().to_mapping()),
    "units": lambda: toy(memory=MEMORY | {"resources": {"fast": "40B/s", "link": "0.0075 kB/s", "slow": 10}}),
    "order of resources": lambda: toy(memory=MEMORY | {"resources": {"slow": 10, "link": 7.5, "fast": 40}}),
    "latency in us": lambda: toy(overrides={"memory.tiers.ddr.latency": "1us"}),
    "capacity in words": lambda: toy(capacity="34B"),
    "share of the KV": lambda: toy(capacity="60%"),
    "unlimited in words": lambda: toy(overrides={"memory.tiers.ddr.capacity": "unlimited"}),
    "sources": lambda: toy(memory=MEMORY | {"source": "a datasheet"}),
    "whole floats": lambda: toy(llm=LLM | {"weight_bytes": 10.0, "kv_bytes_per_token_layer": 4.0}),
    "order of lists": lambda: toy(
        trace=TRACE | {"reads": [[ids[::-1] for ids in row] for row in TRACE["reads"]]}
    ),
    "objects": lambda: Instance(
        "x", Memory.from_mapping(MEMORY), Llm.from_mapping(LLM), Rules(), toy().trace
    ),
    "numpy numbers": lambda: Instance(
        "x", Memory.from_mapping(MEMORY),
        Llm("toy", np.int64(2), np.int64(4), np.float64(10), (np.float64(3), np.float64(2.5))),  # type: ignore[arg-type]
        Rules(), toy().trace,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_hash_does_not_depend_on(what: str) -> None:
    assert SAME[what]().sha256 == GOLDEN


DIFFERENT: dict[str, Any] = {
    "memory.name": "toy2",
    "memory.resources.fast": 41,
    "memory.tiers.hbm.capacity": 35,
    "memory.tiers.hbm.latency": 1e-9,
    "memory.tiers.hbm.writes": ["slow"],
    "memory.tiers.ddr.capacity": 400,
    "memory.tiers.ddr.reads": ["link"],
    "llm.name": "toy2",
    "llm.kv_bytes_per_token_layer": 5,
    "llm.weight_bytes": 11,
    "llm.weight_read_bytes_per_layer": [2.5, 3.0],
    "rules.copies": "exclusive",
    "rules.migration": "none",
    "rules.timing": "serial",
    "rules.initial": "prefill-first",
    "rules.granularity": 2,
    "rules.accounting": "fang2025",
}


@pytest.mark.parametrize("path", DIFFERENT)
def test_hash_depends_on(path: str) -> None:
    assert toy(overrides={path: DIFFERENT[path]}).sha256 != GOLDEN


@pytest.mark.parametrize(
    "trace",
    [
        TRACE | {"prefill_tokens": 3},
        TRACE | {"reads": TRACE["reads"][:2]},
        TRACE | {"reads": [[row[1], row[0]] for row in TRACE["reads"]]},
        TRACE | {"reads": [*TRACE["reads"][:2], [[], [0, 1]]]},
    ],
)
def test_hash_depends_on_the_reads(trace: dict[str, Any]) -> None:
    assert toy(trace=trace).sha256 != GOLDEN


def test_expanded_form_spells_everything_out() -> None:
    expanded = toy().expanded("toy.trace")
    assert list(expanded) == ["schema", "name", "memory", "llm", "trace", "rules", "latency"]
    assert expanded["latency"] == "path"
    assert expanded["memory"] == MEMORY
    assert type(expanded["memory"]["resources"]["fast"]) is int
    assert expanded["llm"] == LLM
    assert expanded["rules"] == Rules().to_mapping()
    assert set(expanded["trace"]) == {"layers", "prefill_tokens", "decode_steps", "sha256", "path"}
    assert len(expanded["trace"]["sha256"]) == 2
    assert "path" not in toy().expanded()["trace"]


def test_other_rules_on_the_same_reads() -> None:
    instance = toy()
    other = instance.with_rules(timing="serial", granularity=2)
    assert (other.rules.timing, other.rules.granularity) == (Timing.SERIAL, 2)
    assert other.trace is instance.trace
    assert instance.rules == Rules()


def test_traces_are_not_copied() -> None:
    trace = Trace.from_lists(2, TRACE["reads"])
    assert toy(trace=trace).trace is trace


BATCH: dict[str, Any] = {
    "prefill_tokens": 2, "reads": [[[0, 1]], [[2, 1]]], "births": [2, 0], "ends": [0, None, 1, None],
    "sequence": [0, 1, 0, 1], "outputs": [1, 0],
}  # fmt: skip


def test_births_and_ends_are_part_of_the_instance() -> None:
    instance = from_mapping(changed("trace", BATCH))
    assert instance.tokens == 4
    assert instance.grouping.held_counts.tolist() == [[2], [3], [2]]
    expanded = instance.expanded()["trace"]
    assert expanded["births"] == [2, 0]
    assert expanded["ends"] == [0, None, 1, None]
    assert expanded["outputs"] == [1, 0]
    assert "sequence" not in expanded  # labels matter only to blocks
    assert instance_sha256(instance.expanded(), instance.trace.row_hashes()) == instance.sha256
    blocks = instance.with_rules(granularity=2)
    assert blocks.expanded()["trace"]["sequence"] == [0, 1, 0, 1]
    hashes = {instance.sha256, blocks.sha256}
    for name, other in (
        ("births", [1, 1]), ("ends", [0, None, None, None]), ("outputs", [2, 0]), ("sequence", [0, 0, 0, 0]),
    ):  # fmt: skip
        hashes.add(from_mapping(changed("trace", BATCH | {name: other})).with_rules(granularity=2).sha256)
    assert len(hashes) == 6


def test_fields_of_a_trace_at_their_defaults_leave_the_hash_alone() -> None:
    plain = from_mapping(DOCUMENT)
    spelled = plain.document(DOCUMENT["trace"] | {"births": 1, "ends": [None] * 4, "sequence": [5] * 4})
    assert from_mapping(spelled).sha256 == plain.sha256
    assert set(plain.expanded()["trace"]) == {"layers", "prefill_tokens", "decode_steps", "sha256"}


def test_a_share_of_capacity_is_one_of_the_largest_live_kv() -> None:
    room = changed("memory/tiers/0/capacity", "50%", changed("trace", BATCH))
    # three tokens of 4 bytes are the most that exist at any time, though there are four in all
    assert from_mapping(room).memory.tiers[0].capacity == 6


def test_all_that_exists_at_one_time_must_fit() -> None:
    for size, fits in ((12, True), (11, False)):
        document = changed("memory/tiers/1/capacity", size, changed("trace", BATCH))
        instance = from_mapping(document)
        if fits:
            assert instance.capacity_units[1] == 3
        else:
            with pytest.raises(InfeasibleError, match="3 blocks of 4 B do not fit"):
                _ = instance.capacity_units


def test_the_published_accounting_knows_no_other_births() -> None:
    for fields in ({"births": [2, 0]}, {"ends": [0, None, None, None]}):
        trace = {"prefill_tokens": 2, "reads": [[[0, 1]], [[1]]]} | fields
        rules = {"accounting": "fang2025"}
        with pytest.raises(InputError, match="trace: expected one birth in every step and no ends"):
            from_mapping(changed("rules", rules, changed("trace", trace)))


HYBRID: dict[str, Any] = LLM | {
    "layers": 3, "kv_bytes_per_token_layer": [6, 4, 0], "weight_read_bytes_per_layer": 0,
    "windows": [None, 2, None],
}  # fmt: skip
"""The second layer has a window, and the third keeps no KV."""
ENDS, STUDY = {"windows": "ends"}, {"accounting": "fang2025"}
READS: dict[str, Any] = {"prefill_tokens": 2, "reads": [[[0, 1], [1], []], [[0], [2], []]]}


def hybrid(**changes: Any) -> Instance:
    return toy(**({"llm": HYBRID, "trace": READS} | changes))


def test_sizes_of_layers_that_differ() -> None:
    instance = hybrid(rules={"granularity": 2})
    assert instance.units.tolist() == [3, 2, 0]
    assert (instance.unit_sizes, instance.item_bytes.tolist()) == ((2, 2), [6, 4, 0])
    assert not instance.uniform
    assert instance.capacity_units == ((34 - 10) // (2 * 2), None)
    assert instance.most_held == 2 * (3 + 2)
    assert toy().uniform


def test_windows_end_tokens_in_their_layers_only_where_the_rules_say_so() -> None:
    ignored, ends = hybrid(), hybrid(rules=ENDS)
    assert [each.ends.tolist() for each in ignored.timelines] == [[2] * 4] * 3
    assert [each.ends.tolist() for each in ends.timelines] == [[2] * 4, [-1, 0, 1, 2], [2] * 4]
    assert ends.timelines[0] is ends.timelines[2] is ends.timeline
    assert ends.live.tolist() == [[2, 1, 2], [3, 1, 3], [4, 1, 4]]
    assert ignored.sha256 != ends.sha256
    assert "windows" not in ignored.expanded()["llm"]
    assert ends.expanded()["llm"]["windows"] == [None, 2, None]
    for rules, shown in (({}, False), (ENDS, True)):  # labels matter to windows, as to blocks
        turns = hybrid(rules=rules, trace=READS | {"sequence": [0, 1, 0, 1]})
        assert ("sequence" in turns.expanded()["trace"]) == shown


def test_a_share_of_capacity_is_one_of_the_largest_live_kv_of_all_layers() -> None:
    """All 4 tokens of 6 bytes, and of 4 bytes all 4 or, within the window, 1 in the end."""
    for rules, kv in (({}, 4 * 6 + 4 * 4), (ENDS, 4 * 6 + 4)):
        assert hybrid(capacity="50%", rules=rules).memory.tiers[0].capacity == 10 + kv // 2


def test_equal_sizes_in_a_list_are_one_size() -> None:
    assert toy(llm=LLM | {"kv_bytes_per_token_layer": [4, 4]}).sha256 == GOLDEN


def test_formats_of_tiers_keep_the_ratio_of_layers() -> None:
    cold = hybrid(formats={"ddr": {"bytes": [3, 2, 0]}})
    assert (cold.unit_sizes, cold.units.tolist()) == ((2, 1), [3, 2, 0])
    assert hybrid(formats={"ddr": {"bytes": [6, 4, 0]}}).formats == {}
    for sizes in ([3, 3, 0], [3, 2, 1], 3):
        with pytest.raises(InputError, match=r"formats\.ddr: expected bytes .* in the same ratio"):
            hybrid(formats={"ddr": {"bytes": sizes}})


def sized(*sizes: int) -> dict[str, Any]:
    return HYBRID | {"kv_bytes_per_token_layer": list(sizes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ENDS, "llm": LLM, "trace": TRACE}, r"llm\.windows: expected the window of at least one"),
        ({"trace": READS | {"reads": [[[], [], []], [[], [], [1]]]}}, "step 1, layer 2: .* keeps no KV"),
        (
            {"trace": READS | {"reads": [[[], [0], []]]}, "rules": ENDS},
            "step 0, layer 1: expected within the window of 2 tokens, no read of token 0",
        ),
        ({"rules": STUDY}, "one size of items under accounting fang2025"),
        (
            {"rules": STUDY | ENDS, "llm": sized(4, 4, 4)},
            r"rules\.windows: expected 'ignore' under",
        ),
        ({"llm": sized(0, 0, 0)}, "a layer with at least 1 byte, not 0 in all"),
        ({"llm": sized(6, 4)}, "one entry for each of the 3 layers, not 2"),
        ({"llm": sized(6, 4, -1)}, "kv_bytes_per_token_layer"),
    ],
)
def test_mistakes_where_layers_differ(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hybrid(**changes)
