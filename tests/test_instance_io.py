"""Instance files: round trips, overrides, and mistakes reported in one sentence."""

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound import catalog
from kvbound.errors import InputError, UsageError
from kvbound.instance_io import (
    LIBRARY,
    from_mapping,
    library,
    make_instance,
    read_instance,
    write_expanded,
    write_instance,
    write_json,
)
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.reading import read_json
from kvbound.rules import Rules
from kvbound.trace import Trace, write_trace
from kvbound.workloads import RandomSwap
from tests.energy_cases import with_any_energy
from tests.instance_documents import DOCUMENT, changed
from tests.strategies import tiny_instance, with_formats, with_layers

seeds = st.integers(0, 2**32 - 1)


def same_trace(one: Trace, other: Trace) -> bool:
    lists = all(
        np.array_equal(one.listed(step, layer), other.listed(step, layer))
        for step in range(one.decode_steps)
        for layer in range(one.layers)
    )
    masses = all(
        (a is None) == (b is None) and (a is None or b is None or np.array_equal(a, b))
        for a, b in zip(one.mass, other.mass, strict=True)
    )
    return lists and masses and one.row_hashes() == other.row_hashes()


# --- what comes back


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_files_come_back(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("instance")
    rng = np.random.default_rng(seed)
    alike = tiny_instance(rng, batch=bool(seed % 2))
    differing = with_layers(rng, alike)
    for instance, write in product(
        (alike, differing, with_formats(rng, differing)), (write_instance, write_expanded)
    ):
        write(instance, folder / "x.json")
        again = read_instance(folder / "x.json")
        assert again.sha256 == instance.sha256
        assert (again.name, again.memory, again.llm, again.rules, again.formats) == (
            instance.name, instance.memory, instance.llm, instance.rules, instance.formats
        )  # fmt: skip
        assert [each.ends.tolist() for each in again.timelines] == [
            each.ends.tolist() for each in instance.timelines
        ]
        assert same_trace(again.trace, instance.trace)


@pytest.mark.parametrize("write", [write_instance, write_expanded])
def test_energies_come_back(write: Any, tmp_path: Path) -> None:
    instance = with_any_energy(np.random.default_rng(0), from_mapping(DOCUMENT))
    write(instance, tmp_path / "x.json")
    again = read_instance(tmp_path / "x.json")
    assert again.memory.to_mapping() == instance.memory.to_mapping()
    assert set(again.memory.to_mapping()) >= {"energy", "mac_energy", "static_watts"}
    assert again.llm.parameters == instance.llm.parameters
    assert again.sha256 == instance.sha256 == from_mapping(DOCUMENT).sha256


def test_list_order_and_mass_come_back(tmp_path: Path) -> None:
    trace = Trace.from_lists(2, [[[1, 0]], [[2, 0, 1]]], mass=[[[0.5, 0.25]], [[3, 1, 2]]])
    write_instance(make_instance("t", **parts(trace=trace)), tmp_path / "x.json")
    assert same_trace(read_instance(tmp_path / "x.json").trace, trace)


def test_synthetic_traces_are_written_as_their_description(tmp_path: Path) -> None:
    spec = RandomSwap(layers=1, prefill_tokens=20, decode_steps=5, seed=3)
    instance = make_instance("t", **parts(trace=spec))
    write_instance(instance, tmp_path / "x.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]
    again = read_instance(tmp_path / "x.json")
    assert again.workload == spec
    assert again.sha256 == instance.sha256


def test_writing_twice_is_the_same_bytes(tmp_path: Path) -> None:
    instance = from_mapping(DOCUMENT)
    written = []
    for _ in range(2):
        write_expanded(instance, tmp_path / "x.json")
        written.append((tmp_path / "x.json").read_bytes())
    assert written[0] == written[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.json", "x.trace"]


def test_files_may_move_with_their_trace(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write_instance(from_mapping(DOCUMENT), tmp_path / "here" / "x.json")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_instance(tmp_path / "there" / "x.json").sha256 == from_mapping(DOCUMENT).sha256


def test_an_instance_is_written_over_itself(tmp_path: Path) -> None:
    """Its trace is a memory map of the folder that is replaced."""
    write_instance(from_mapping(DOCUMENT), tmp_path / "x.json")
    instance = read_instance(tmp_path / "x.json")
    write_instance(instance, tmp_path / "x.json")
    assert read_instance(tmp_path / "x.json").sha256 == instance.sha256 == from_mapping(DOCUMENT).sha256


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_json({"a": 1}, tmp_path / "x.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "x.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize("as_path", [True, False])
def test_trace_paths_start_from_the_file(tmp_path: Path, as_path: bool) -> None:
    write_trace(from_mapping(DOCUMENT).trace, tmp_path / "t.trace")
    trace: Any = {"path": "t.trace"} if as_path else "t.trace"
    instance = from_mapping(changed("trace", trace), folder=tmp_path)
    assert instance.sha256 == from_mapping(DOCUMENT).sha256
    assert make_instance("t", **parts(trace=tmp_path / "t.trace")).sha256 == instance.sha256


# --- parts, overrides and capacity


def parts(**changes: Any) -> dict[str, Any]:
    return {key: DOCUMENT[key] for key in ("memory", "llm", "trace", "rules")} | changes


def test_parts_may_be_objects() -> None:
    made = make_instance(
        "t", memory=Memory.from_mapping(DOCUMENT["memory"]), llm=Llm.from_mapping(DOCUMENT["llm"]),
        trace=from_mapping(DOCUMENT).trace, rules=Rules.from_mapping(DOCUMENT["rules"]),
    )  # fmt: skip
    assert made.sha256 == from_mapping(DOCUMENT).sha256


@pytest.mark.parametrize("as_config", [True, False])
def test_an_llm_may_be_a_file(tmp_path: Path, as_config: bool) -> None:
    layers = DOCUMENT["llm"]["layers"]
    config = {
        "model_type": "llama", "num_hidden_layers": layers, "hidden_size": 8, "num_attention_heads": 2,
        "intermediate_size": 8, "vocab_size": 8,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config if as_config else DOCUMENT["llm"]))
    instance = from_mapping(changed("llm", "config.json"), folder=tmp_path)
    size = 2 * 8 * 2 if as_config else DOCUMENT["llm"]["kv_bytes_per_token_layer"]
    assert instance.item_bytes.tolist() == [size] * instance.layers
    for path in (str(tmp_path / "config.json"), tmp_path / "config.json"):
        assert make_instance(instance.name, **parts(llm=path)).sha256 == instance.sha256
    with pytest.raises(InputError, match=r"none\.json: expected a readable file"):
        from_mapping(changed("llm", "none.json"), folder=tmp_path)


@pytest.mark.parametrize("rules", [None, {}, Rules()])
def test_rules_have_defaults(rules: object) -> None:
    assert make_instance("t", **parts(rules=rules)).rules == Rules()


def test_catalog_names_and_overrides_leave_the_catalog_alone() -> None:
    before = [catalog.entry(catalog.Kind.MEMORY, "gh200-144"), catalog.entry(catalog.Kind.LLM, "gpt2")]
    trace = RandomSwap(layers=12, prefill_tokens=20, decode_steps=2)
    changes = {"memory.tiers.hbm.capacity": "30%", "memory.resources.hbm": 5e12, "llm.weight_bytes": 7}
    made = make_instance("t", memory="gh200-144", llm="gpt2", trace=trace, overrides=changes)
    assert made.memory.tiers[0].capacity == 7 + round(0.3 * made.llm.kv_bytes(22))
    assert made.memory.resources["hbm"] == 5e12
    after = [catalog.entry(catalog.Kind.MEMORY, "gh200-144"), catalog.entry(catalog.Kind.LLM, "gpt2")]
    assert before == after
    plain = make_instance("t", memory="gh200-144", llm="gpt2", trace=trace)
    assert plain.memory == catalog.memory("gh200-144")


def test_nothing_given_is_changed() -> None:
    document = copy.deepcopy(DOCUMENT) | {
        "overrides": {"memory.tiers.hbm.capacity": 8, "rules.timing": "serial"}
    }
    given = copy.deepcopy(document)
    made = from_mapping(document)
    assert made.memory.tiers[0].capacity == 8
    make_instance("t", **parts(), overrides={"rules.copies": "exclusive"}, capacity=8)
    assert document == given


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("memory.tiers.hbm.capacity", "8B", lambda i: i.memory.tiers[0].capacity == 8),
        ("memory.tiers.0.capacity", 8, lambda i: i.memory.tiers[0].capacity == 8),
        ("memory.tiers.1.latency", "1s", lambda i: i.memory.tiers[1].latency == 1),
        ("memory.tiers.1.reads.0", "fast", lambda i: i.memory.tiers[1].reads == ("fast",)),
        ("memory.name", "other", lambda i: i.memory.name == "other"),
        ("memory.resources.fast", 3, lambda i: i.memory.resources["fast"] == 3),
        ("llm.weight_read_bytes_per_layer", "1kB", lambda i: i.llm.weight_reads.tolist() == [1000]),
        ("llm.weight_read_bytes_per_layer.0", 5, lambda i: i.llm.weight_reads.tolist() == [5]),
        ("rules.timing", "serial", lambda i: i.rules.timing == "serial"),
        ("rules", {"timing": "serial"}, lambda i: i.rules == Rules(timing="serial")),  # type: ignore[arg-type]
    ],
)
def test_overrides_reach(path: str, value: object, read: Any) -> None:
    assert read(make_instance("t", **parts(), overrides={path: value}))


def test_overrides_apply_in_order_and_capacity_last() -> None:
    changes = {
        "memory.resources": {**DOCUMENT["memory"]["resources"], "idle": 3},
        "memory.tiers.hbm.writes": ["fast", "idle"],
        "memory.tiers.hbm.capacity": 4,
    }
    made = make_instance("t", **parts(), overrides=changes, capacity="50%")
    assert made.memory.tiers[0].writes == ("fast", "idle")
    assert made.memory.tiers[0].capacity == 8


def test_capacity_finds_a_tier_whatever_it_is_called() -> None:
    for name in ("a.b", "1", "capacity"):
        document = changed("memory/tiers/0/name", name)
        assert (
            make_instance("t", **(parts() | {"memory": document["memory"]}), capacity=8).capacity_units[0]
            == 2
        )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory.tiers.hbn.capacity", "found no 'hbn'; did you mean 'hbm'?"),
        ("memry.tiers.hbm.capacity", "found no 'memry'; did you mean 'memory'?"),
        ("memory.teirs.hbm.capacity", "found no 'teirs'; did you mean 'tiers'?"),
        ("memory.tiers.2.capacity", "found no '2'"),
        ("memory.tiers.-1.capacity", "found no '-1'"),
        ("memory.tiers." + "9" * 5000, "found no '9"),
        ("memory.name.x", "found no 'x'"),
        ("memory.tiers.hbm.latency.x", "found no 'latency'"),
        ("capacity", "found no 'capacity'"),
        ("rule", "found no 'rule'; did you mean 'rules'?"),
        ("", "found no ''"),
        (".", "found no ''"),
        ("trace.path", "found no 'trace'"),
    ],
)
def test_overrides_of_unknown_paths(path: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        make_instance("t", **parts(), overrides={path: 1}, file="x.json")
    assert error.value.field == f"overrides.{path}"
    assert message in str(error.value)


def test_an_overridden_typo_is_an_unknown_field() -> None:
    with pytest.raises(InputError, match=r"x: memory\.tiers\.hbm\.capacty: .*did you mean 'capacity'"):
        make_instance("t", **parts(), overrides={"memory.tiers.hbm.capacty": 1}, file="x")


def test_unknown_names_that_come_from_no_file_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'gh200-144'"):
        make_instance("t", **parts(memory="gh200-14"))
    with pytest.raises(InputError, match=r"^x\.json: memory: .*did you mean 'gh200-144'"):
        from_mapping(changed("memory", "gh200-14"), file="x.json")


# --- the library


def test_the_library_is_named_after_its_files() -> None:
    for name, path in library().items():
        assert path.is_relative_to(LIBRARY)
        assert path.name == f"{name}.json"


def test_unknown_names_get_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an instance file or a name from `kvbound instance list`"):
        read_instance("no-such-instance")
    known = sorted(library())
    if known:
        with pytest.raises(InputError, match=f"did you mean '{known[0]}'"):
            read_instance(known[0] + "x")
    for nothing in (tmp_path, "", "a\0b", "x" * 5000):
        with pytest.raises(InputError):
            read_instance(nothing)


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("9007199254740993", 2**53 + 1),
        ("9007199254740993.5", 2**53 + 1),
        ("1152921504606846975.99999", 2**60 - 1),
        ("39.999999999999999999999", 39),
        ("4.1e1", 41),
        ('"0.1GiB"', 107_374_182),
        ('"40.9B"', 40),
    ],
)
def test_no_digit_of_a_capacity_is_lost(written: str, whole: int, tmp_path: Path) -> None:
    text = json.dumps(changed("memory/tiers/0/capacity", "HERE")).replace('"HERE"', written)
    (tmp_path / "a.json").write_text(text)
    instance = read_instance(tmp_path / "a.json")
    assert instance.memory.tiers[0].capacity == whole
    for write in (write_instance, write_expanded):
        write(instance, tmp_path / "b.json")
        again = read_instance(tmp_path / "b.json")
        assert again.memory.tiers[0].capacity == whole
        assert again.sha256 == instance.sha256


def test_kv_beyond_all_memory_is_refused() -> None:
    with pytest.raises(InputError, match=r"at most 1,152,921,504,606,846,976 bytes of KV in all"):
        from_mapping(
            changed("llm/kv_bytes_per_token_layer", 2**40)
            | {
                "trace": {
                    "synthetic": RandomSwap(layers=1, prefill_tokens=2**20, decode_steps=1).to_mapping()
                }
            }
        )


def test_batches_come_back(tmp_path: Path) -> None:
    instance = tiny_instance(np.random.default_rng(5), batch=True, granularity=2)
    assert instance.timeline.to_mapping().keys() >= {"births", "ends"}
    write_instance(instance, tmp_path / "a.json")
    write_expanded(instance, tmp_path / "b.json")
    for name in ("a.json", "b.json"):
        assert read_instance(tmp_path / name).sha256 == instance.sha256
    document = json.loads((tmp_path / "b.json").read_text())
    for births in (None, [count + 1 for count in document["trace"]["births"]]):
        document["trace"] |= {"births": births}
        (tmp_path / "b.json").write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"trace.births: expected the births of b.trace; it is another"):
            read_instance(tmp_path / "b.json")
