"""Memories: load matrices, round trips, refusals that name the field."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.memory import Memory, Tier
from tests.instance_documents import GH200, changed


def test_units_and_loads() -> None:
    memory = Memory.from_mapping(GH200)
    assert memory.bandwidths.tolist() == [4900e9, 450e9, 450e9, 500e9]
    assert memory.read_load.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1]]
    assert memory.write_load.tolist() == [[1, 0, 0, 0], [0, 0, 1, 1]]
    assert memory.tiers == (
        Tier("hbm", 144e9, ("hbm",), ("hbm",)),
        Tier("lpddr", None, ("c2c_down", "lpddr"), ("c2c_up", "lpddr")),
    )
    assert hash(memory) == hash(Memory.from_mapping(memory.to_mapping()))


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    used = st.lists(st.sampled_from(names), min_size=1, unique=True).map(tuple)
    sizes = draw(st.lists(st.floats(0, 1e15), min_size=2, max_size=5))
    last = draw(st.booleans())
    return Memory(
        "m",
        {name: draw(st.floats(1, 1e15)) for name in names},
        tuple(
            Tier(
                f"t{k}",
                None if last and k == len(sizes) - 1 else size,
                draw(used),
                draw(used | st.just(())),
                draw(st.floats(0, 1)),
            )
            for k, size in enumerate(sizes)
        ),
    )


@given(memories())
def test_round_trip(memory: Memory) -> None:
    again = Memory.from_mapping(memory.to_mapping())
    assert again == memory
    assert list(again.resources) == list(memory.resources)


@given(memories())
def test_loads_match_the_resources_of_tiers(memory: Memory) -> None:
    for load, used in (
        (memory.read_load, [tier.reads for tier in memory.tiers]),
        (memory.write_load, [tier.writes for tier in memory.tiers]),
    ):
        assert load.shape == (len(memory.tiers), len(memory.resources))
        for row, names in zip(load, used, strict=True):
            assert {name for name, one in zip(memory.resources, row, strict=True) if one} == set(names)
        assert set(np.unique(load)) <= {0.0, 1.0}


def test_capacity_as_a_share() -> None:
    mapping = changed("tiers/0/capacity", "30%", GH200)
    memory = Memory.from_mapping(mapping, share_of=lambda share: float(1000 * share))
    assert memory.tiers[0].capacity == 300
    with pytest.raises(
        InputError, match=r"^x\.json: memory\.tiers\.hbm\.capacity: expected a size, as '30%'"
    ):
        Memory.from_mapping(mapping, "x.json", "memory")


def test_sources_and_energy_are_kept_and_ignored_by_equality() -> None:
    memory = Memory.from_mapping(
        GH200
        | {
            "source": "datasheet",
            "sources": {"resources.hbm": "datasheet"},
            "energy": {"hbm": {"device": {"low": 3.97, "high": 6.0}, "system": {"mid": 13.1}}},
        }
    )
    assert memory.sources["resources.hbm"] == "datasheet"
    assert memory.energy == {"hbm": {"device": {"low": 3.97, "high": 6.0}, "system": {"mid": 13.1}}}
    assert memory == Memory.from_mapping(GH200)


def test_energies_per_byte_and_per_operation() -> None:
    memory = Memory.from_mapping(
        GH200
        | {
            "energy": {"hbm": {"device": {"mid": 4, "high": 6}, "system": {"mid": 13.1}}, "c2c_up": {}},
            "mac_energy": {"device": {"low": 1, "mid": 1.5}},
            "static_watts": 100,
        }
    )
    assert memory.joules_per_byte()[0] == pytest.approx(32e-12)
    assert memory.joules_per_byte(point="high")[0] == pytest.approx(48e-12)
    assert memory.joules_per_byte("system")[0] == pytest.approx(104.8e-12)
    assert np.isnan(memory.joules_per_byte()).tolist() == [False, True, True, True]
    assert memory.joules_per_mac() == pytest.approx(1.5e-12)
    assert memory.joules_per_mac("system") is None
    assert memory.static_watts == 100
    again = Memory.from_mapping(memory.to_mapping())
    assert (again.energy, again.mac_energy, again.static_watts) == (
        memory.energy, memory.mac_energy, memory.static_watts,
    )  # fmt: skip
    plain = Memory.from_mapping(GH200)
    assert set(plain.to_mapping()) == {"name", "resources", "tiers"}
    assert np.isnan(plain.joules_per_byte()).all()


def test_a_power_is_validated_on_construction() -> None:
    memory = Memory.from_mapping(GH200)
    with pytest.raises(InputError, match="static_watts: expected a finite power of at least 0, not -1"):
        dataclasses.replace(memory, static_watts=-1.0)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("name", ..., "name"),
        ("name", "", "name"),
        ("name", 3, "name"),
        ("resources", ..., "resources"),
        ("resources", ["hbm"], "resources"),
        ("resources/hbm", 0, "resources.hbm"),
        ("resources/hbm", -1, "resources.hbm"),
        ("resources/hbm", math.nan, "resources.hbm"),
        ("resources/hbm", math.inf, "resources.hbm"),
        ("resources/hbm", "4900GB", "resources.hbm"),
        ("resources/hbm", 1e30, "resources.hbm"),
        ("resources/hbm", 1e-30, "resources.hbm"),
        ("resources/hbm", None, "resources.hbm"),
        ("resources/hbm", True, "resources.hbm"),
        ("tiers", ..., "tiers"),
        ("tiers", {}, "tiers"),
        ("tiers", [], "tiers"),
        ("tiers/1", ..., "tiers"),
        ("tiers/1", "lpddr", "tiers.1"),
        ("tiers/1/name", ..., "tiers.1.name"),
        ("tiers/1/name", "hbm", "tiers.hbm"),
        ("tiers/0/capacity", ..., "tiers.hbm.capacity"),
        ("tiers/0/capacity", None, "tiers.hbm.capacity"),
        ("tiers/0/capacity", -1, "tiers.hbm.capacity"),
        ("tiers/0/capacity", math.nan, "tiers.hbm.capacity"),
        ("tiers/0/capacity", 1e40, "tiers.hbm.capacity"),
        ("tiers/0/capacity", "23 gigs", "tiers.hbm.capacity"),
        ("tiers/0/capacity", "130%", "tiers.hbm.capacity"),
        ("tiers/0/reads", [], "tiers.hbm.reads"),
        ("tiers/0/reads", "hbm", "tiers.hbm.reads"),
        ("tiers/0/reads", ["hmb"], "tiers.hbm.reads"),
        ("tiers/0/reads", ["hbm", "hbm"], "tiers.hbm.reads"),
        ("tiers/0/writes", [3], "tiers.hbm.writes"),
        ("tiers/0/latency", "10 sec", "tiers.hbm.latency"),
        ("tiers/0/latency", -1e-6, "tiers.hbm.latency"),
        ("tiers/0/latency", 1e12, "tiers.hbm.latency"),
        ("tiers/0/bandwidth", 1, "tiers.hbm.bandwidth"),
        ("resource", {}, "resource"),
        ("source", 3, "source"),
        ("sources", {"resources.hbm": 3}, "sources.resources.hbm"),
        ("energy", {"hmb": {}}, "energy.hmb"),
        ("energy", {"hbm": {"device": {}}}, "energy.hbm.device"),
        ("energy", {"hbm": {"device": {"low": 3, "mid": 2}}}, "energy.hbm.device"),
        ("energy", {"hbm": {"device": {"low": -3}}}, "energy.hbm.device.low"),
        ("energy", {"hbm": {"chip": {"low": 3}}}, "energy.hbm.chip"),
        ("energy", {"hbm": {"device": {"mid": math.nan}}}, "energy.hbm.device.mid"),
        ("energy", {"hbm": {"device": {"mid": "4 pJ"}}}, "energy.hbm.device.mid"),
        ("mac_energy", 1.5, "mac_energy"),
        ("mac_energy", {"mid": 1.5}, "mac_energy.mid"),
        ("mac_energy", {"device": {}}, "mac_energy.device"),
        ("mac_energy", {"device": {"mid": -1}}, "mac_energy.device.mid"),
        ("static_watts", -1, "static_watts"),
        ("static_watts", math.inf, "static_watts"),
        ("static_watts", "100 W", "static_watts"),
        ("static_watts", None, "static_watts"),
    ],
)
def test_malformed(path: str, value: object, field: str) -> None:
    with pytest.raises(InputError) as caught:
        Memory.from_mapping(changed(path, value, GH200), "x.json", "memory", share_of=float)
    assert caught.value.field == f"memory.{field}"
    assert str(caught.value).startswith(f"x.json: memory.{field}: expected ")


@pytest.mark.parametrize("mapping", [None, [], "gh200", {1: 2}])
def test_not_a_table(mapping: object) -> None:
    with pytest.raises(InputError, match=r"^x\.json: memory: expected a table of named fields"):
        Memory.from_mapping(mapping, "x.json", "memory")


def test_a_tier_may_cost_nothing_to_write() -> None:
    memory = Memory.from_mapping(changed("tiers/1/writes", [], GH200), share_of=float)
    assert memory.write_load[1].sum() == 0
    assert Memory.from_mapping(memory.to_mapping()) == memory


def test_a_mistyped_field_is_suggested() -> None:
    with pytest.raises(InputError, match="did you mean 'latency'"):
        Memory.from_mapping(changed("tiers/0/latencey", 1, GH200))


def test_values_are_validated_on_construction() -> None:
    with pytest.raises(InputError, match=r"memory 'm': tiers\.a\.capacity"):
        Memory("m", {"r": 1.0}, (Tier("a", None, ("r",), ("r",)), Tier("b", None, ("r",), ("r",))))


def test_more_than_eight_tiers_are_refused() -> None:
    tiers = tuple(Tier(f"t{k}", None if k == 8 else 1.0, ("bus",), ("bus",)) for k in range(9))
    with pytest.raises(InputError, match="tiers: expected 2 to 8 tiers, fast to slow, not 9"):
        Memory("tall", {"bus": 1.0}, tiers)
    assert len(Memory("tall", {"bus": 1.0}, tiers[1:]).tiers) == 8


@pytest.mark.parametrize(
    ("capacity", "whole"),
    [
        (2.3, 2),
        (2**60, 2**60),
        (2**54 + 1, 2**54 + 1),
        (np.float64(7.9), 7),
        (np.int32(7), 7),
        (0.1 + 0.2, 0),
    ],
)
def test_capacities_are_whole_bytes(capacity: float, whole: int) -> None:
    tier = Tier("t", capacity, ("bus",), ("bus",))
    assert tier.capacity == whole
    assert type(tier.capacity) is int


@pytest.mark.parametrize("capacity", [-1, math.nan, math.inf, True, 2**60 + 1, 10**400])
def test_impossible_capacities(capacity: float) -> None:
    with pytest.raises(InputError, match="capacity: expected"):
        Memory("m", {"bus": 1.0}, tuple(Tier(name, capacity, ("bus",), ("bus",)) for name in "ab"))
