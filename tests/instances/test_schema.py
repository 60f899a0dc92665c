"""The JSON Schema accepts what the reader accepts, and refuses what is wrong with a file's structure."""

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import kvbound as kv
from kvbound import catalog
from kvbound.errors import InputError
from kvbound.instance_io import LIBRARY, from_mapping, library
from kvbound.llm.formats import FORMATS, known
from kvbound.workloads import KINDS
from tests.cli.conftest import READS, document

SCHEMA = json.loads((LIBRARY / "schema" / "instance.schema.json").read_text())
VALID = Draft202012Validator(SCHEMA).is_valid


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", library())
def test_the_library(name: str) -> None:
    assert VALID(json.loads(library()[name].read_text()))


@pytest.mark.parametrize("kind", [catalog.Kind.MEMORY, catalog.Kind.LLM])
def test_every_entry_of_the_catalog(kind: catalog.Kind) -> None:
    for name in catalog.names(kind):
        assert VALID(document(**{kind.value: name}))
        assert VALID(document(**{kind.value: catalog.entry(kind, name)}))


def test_expanded_instances() -> None:
    assert VALID(kv.read_instance("tiny-three").expanded("x.trace"))
    assert VALID(kv.read_instance("native-r15-c25-b64").expanded("y.trace"))


def test_a_tier_that_costs_nothing_to_write() -> None:
    free = kv.read_instance("tiny-three", overrides={"memory.tiers.0.writes": []}).expanded("x.trace")
    assert free["memory"]["tiers"][0]["writes"] == []
    assert VALID(free)


def test_energies_of_expanded_instances() -> None:
    memory = {"static_watts": 1, "mac_energy": {"device": {"mid": 1.5}}}
    changes = {f"memory.{field}": value for field, value in memory.items()} | {"llm.parameters": 7}
    rich = kv.read_instance("b2-8b-h100-c25", overrides=changes).expanded("x.trace")
    assert rich["memory"]["energy"]["hbm"] == {"device": {"mid": 3.97}}
    assert VALID(rich)


@pytest.mark.parametrize(
    ("objective", "valid"),
    [
        ({}, True), ({"energy": 0.5}, True), ({"time": 0, "energy": 1, "level": "system"}, True),
        ({"time": 0}, False), ({"time": 0, "energy": 0}, False), ({"energy": -1}, False),
        ({"watts": 1}, False), ({"energy": 1e-20}, False), ({"energy": 1e20}, False),
        ({"point": "best"}, False), ("energy", False),
    ],
)  # fmt: skip
def test_objectives(objective: object, valid: bool) -> None:
    assert VALID(document(objective=objective)) is valid
    if valid:
        return
    with pytest.raises(InputError):
        from_mapping(document(objective=objective))


def test_it_knows_every_kind_and_every_rule() -> None:
    kinds = SCHEMA["$defs"]["synthetic"]["properties"]["synthetic"]["properties"]["kind"]["enum"]
    assert set(kinds) == set(KINDS)
    names = {each.name for each in dataclasses.fields(kv.Rules)}
    assert set(SCHEMA["$defs"]["rules"]["properties"]) == names


def test_it_knows_every_number_format() -> None:
    names, groups = SCHEMA["$defs"]["formatName"]["anyOf"]
    assert names["enum"] == list(FORMATS)
    for name in ("int8-g64", "int4-g1", "int4-g32-zero", "int2-g64", "int8-g0", "int8", "q8_1"):
        assert (re.search(groups["pattern"], name) is not None) == (known(name) is not None), name


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        at: Any = content
        for key in keys:
            at = at[key]
        if value is ...:
            del at[last]
        else:
            at[last] = value

    return change


WRONG: tuple[tuple[str, Any], ...] = (
    ("schema", "kvbound.instance/2"), ("schema", ...), ("name", ...), ("name", ""), ("name", 3), ("extra", 1),
    ("memory", ...), ("memory", 3), ("memory.more", 1), ("memory.tiers", ...), ("memory.tiers", []),
    ("memory.tiers", [document()["memory"]["tiers"][0]]), ("memory.tiers.0.reads", []),
    ("memory.tiers.0.reads", ["hbm", "hbm"]), ("memory.tiers.0.reads", "hbm"), ("memory.tiers.0.reads", ...),
    ("memory.tiers.0.capacity", ...), ("memory.tiers.0.capacity", -1), ("memory.tiers.0.capacity", 1e30),
    ("memory.tiers.0.capacity", "24G"), ("memory.tiers.0.capacity", "-3GB"), ("memory.tiers.0.latency", "1m"),
    ("memory.tiers.0.size", 1), ("memory.resources.hbm", 0), ("memory.resources.hbm", "4900Gb/s"),
    ("memory.resources.hbm", None), ("llm", []), ("llm.layers", 0), ("llm.layers", 1.5), ("llm.layers", True),
    ("llm.layers", ...), ("llm.kv_bytes_per_token_layer", 0), ("llm.kv_bytes_per_token_layer", 0.5),
    ("llm.weight_bytes", "lots"), ("llm.weight_read_bytes_per_layer", ["1kB", -1]), ("llm.windows", [0]),
    ("llm.heads", 8), ("rules.copies", "both"), ("rules.copying", "inclusive"), ("rules.granularity", 0),
    ("rules.granularity", 1.5), ("rules", []), ("rules.windows", "end"),
    ("llm.kv_bytes_per_token_layer", []), ("llm.kv_bytes_per_token_layer", [8, -1]),
    ("memory.energy", {"hbm": {"chip": {}}}), ("memory.energy", {"hbm": {"device": {"mid": -1}}}),
    ("memory.mac_energy", {"mid": 1}), ("memory.static_watts", -1), ("memory.static_watts", "9W"),
    ("llm.parameters", -1), ("llm.parameters", 0.5),
    ("overrides", []), ("trace", ...), ("trace", {}), ("trace", "x"),
    ("trace.prefill_tokens", ...), ("trace.prefill_tokens", -1), ("trace.reads", []),
    ("trace.reads.0.0", [2, 2]), ("trace.reads.0.0", [-1]), ("trace.reads.0.0", [0.5]),
    ("trace.reads.0.0", ["2"]), ("trace.reads.0.0", 2), ("trace.path", "x.trace"),
    ("trace", {"synthetic": {"kind": "other"}}), ("trace", {"synthetic": {"kind": "fang2025", "layers": 2}}),
)  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: str(part)[:40])
def test_what_the_reader_refuses_for_its_structure(path: str, value: Any) -> None:
    content = copy.deepcopy(document())
    changed(path, value)(content)
    assert not VALID(content)
    with pytest.raises(InputError):
        from_mapping(content)


RIGHT: tuple[tuple[str, Any], ...] = (
    ("memory.tiers.0.capacity", "23GiB"), ("memory.tiers.0.capacity", " 1.5e3 kB "),
    ("memory.tiers.0.capacity", "12.5 %"), ("memory.tiers.0.capacity", 0),
    ("memory.tiers.0.capacity", "400000"),
    ("memory.tiers.1.capacity", "unlimited"), ("memory.tiers.1.capacity", "480GB"),
    ("memory.tiers.0.latency", "10us"), ("memory.resources.hbm", 4.9e12), ("memory.source", ""),
    ("memory.energy", {"hbm": {"device": {"low": 1, "mid": 2}}}), ("llm.layers", 2.0),
    ("memory.mac_energy", {"device": {"mid": 1.5}}), ("memory.static_watts", 0), ("llm.parameters", 135e6),
    ("llm.weight_read_bytes_per_layer", "1MB"), ("llm.weight_read_bytes_per_layer", ["1MB", 5]),
    ("llm.windows", [None, 32]), ("rules", {}), ("rules.granularity", 2.0), ("overrides", {"name": "x"}),
    ("trace.reads.0.0", []), ("trace.reads", READS[:1]), ("rules.windows", "ignore"),
    ("llm.kv_bytes_per_token_layer", [8, "4B"]), ("formats", {"dram": {"bytes": [8, 8]}}),
)  # fmt: skip


@pytest.mark.parametrize(("path", "value"), RIGHT, ids=lambda part: str(part)[:40])
def test_what_the_reader_takes(path: str, value: Any) -> None:
    content = copy.deepcopy(document())
    changed(path, value)(content)
    assert VALID(content)
    if path != "overrides":
        from_mapping(content)
