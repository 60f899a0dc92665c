"""Memories composed of an accelerator and parts: what they are made of, and names that are refused."""

import hashlib
import json
import re
from typing import Any

import pytest

from kvbound import catalog
from kvbound.catalog import Kind
from kvbound.errors import InputError, UsageError
from kvbound.instance_io import make_instance, read_hardware, read_instance
from kvbound.memory import MAX_TIERS, Memory
from tests.instance_documents import llm

ACCELERATORS, PARTS = catalog.accelerators(), catalog.parts()
HOSTS = ("ddr5", "ddr5-8ch", "ddr5-2ch", "ddr4", "lpddr5x")
UNIFIED = ("jetson-agx-orin", "dgx-spark", "strix-halo", "m4-max", "m3-ultra")
GRACE = tuple(name for name in ACCELERATORS if name.startswith(("gh200", "gb200")))
STACKS = [
    f"{first}+{'' if first in (*UNIFIED, *GRACE) else 'ddr5+'}{rest}"
    for first in ACCELERATORS
    for rest in ("cxl3+nvme5+400gbe+s3", "cxl2-effective+nvme4+rdma-store+100gbe")
]

H100_STACK: dict[str, Any] = {
    "name": "h100+ddr5+nvme5+400gbe",
    "resources": {
        "hbm": 3350e9, "pcie_down": 64e9, "pcie_up": 64e9, "ddr5": 460.8e9,
        "nvme5_read": 13e9, "nvme5_write": 6.6e9, "400gbe_down": 50e9, "400gbe_up": 50e9,
    },
    "tiers": [
        {"name": "hbm", "capacity": 80e9, "reads": ["hbm"], "writes": ["hbm"], "latency": 0.0},
        {
            "name": "ddr5", "capacity": 768 * 2**30, "latency": 100e-9,
            "reads": ["pcie_down", "ddr5"], "writes": ["pcie_up", "ddr5"],
        },
        {
            "name": "nvme5", "capacity": 15.36e12, "latency": 80e-6,
            "reads": ["pcie_down", "nvme5_read"], "writes": ["pcie_up", "nvme5_write"],
        },
        {
            "name": "400gbe", "capacity": 768 * 2**30, "latency": 10e-6,
            "reads": ["pcie_down", "400gbe_down"], "writes": ["pcie_up", "400gbe_up"],
        },
    ],
}  # fmt: skip

ENTRIES = {
    "gh200-144": "0789cfdfada7", "gh200-144-lpddr384": "60ab4c580959", "gh200-144-lpddr512": "0dda2f76faaf",
    "gh200-144-measured": "243f9b430159", "gh200-96": "f25bb371ef87", "gh200-96-lpddr384": "3cdaf835b3a2",
    "gh200-96-lpddr512": "6ae542e8bc52", "gh200-96-measured": "7457a1127eae",
    "gh200-96-measured-memcpy": "6e4de78d3b4e", "gh200-paper": "792e9ea8fcdb",
    "nvlink3-paper": "fdee75dd23d7", "pcie6-paper": "8828aadbfe2c", "pcie6": "567f5e1c7bba",
    "a100-40-pcie4": "e312f067814e", "a100-40-pcie4-measured": "191c07140cf8",
    "a100-80-pcie4": "e1a0499ffe99", "a100-80-pcie4-measured": "24b9fd8c3a74", "h100-pcie5": "348287790ed6",
    "h100-pcie5-measured": "dcb72639132f", "h200-pcie5": "4cd6a1479fc3",
    "h200-pcie5-measured": "f16ff3619dc2", "b200-pcie5": "80ec152390a9",
    "b200-pcie5-measured": "4a0afb0ccaaa", "b200-pcie6": "4fb7f587ead7", "gb200": "a07b3fc0c4e8",
}  # fmt: skip
"""Digests of entries, on which the hashes of instances depend."""


def quantities(entry: dict[str, Any]) -> set[str]:
    """Dotted paths of all that has a source; one serves low, mid and high of an energy level."""
    resources = {f"resources.{name}" for name in entry["resources"]}
    tiers = {
        f"tiers.{tier['name']}.{key}"
        for tier in entry["tiers"]
        for key in ("capacity", "latency")
        if key in tier
    }
    energy = {
        f"energy.{name}.{level}" for name, levels in entry.get("energy", {}).items() for level in levels
    }
    return resources | tiers | energy


def test_a_whole_stack_by_hand() -> None:
    memory = catalog.memory("h100+ddr5+nvme5+400gbe")
    assert memory.to_mapping() == H100_STACK | {"energy": memory.energy}
    assert list(memory.resources) == list(H100_STACK["resources"])
    assert memory.energy == {
        "hbm": {"device": {"mid": 3.97}},
        "pcie_down": {"device": {"low": 2.0, "mid": 11.4, "high": 19.0}},
        "pcie_up": {"device": {"low": 2.0, "mid": 11.4, "high": 19.0}},
        "ddr5": {"device": {"mid": 11.8}},
        "nvme5_read": {"device": {"low": 206.0, "mid": 214.5, "high": 223.0}},
        "nvme5_write": {"device": {"low": 206.0, "mid": 214.5, "high": 223.0}},
        "400gbe_down": {"device": {"mid": 22.5}},
        "400gbe_up": {"device": {"mid": 22.5}},
    }


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_keep_their_meaning(name: str) -> None:
    text = json.dumps(catalog.entry(Kind.MEMORY, name))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == ENTRIES[name]


def test_instances_of_the_library_keep_their_hashes() -> None:
    kept = read_instance("b2-8b-h100-c25").sha256
    assert kept == "b621cb26add286692011efa9b4e3ccda4a31555266646fc48a07e9bd27fc1bf7"


@pytest.mark.parametrize("first", ACCELERATORS)
def test_every_accelerator_goes_with_every_part(first: str) -> None:
    own_host = first in (*UNIFIED, *GRACE)
    for part in PARTS:
        name = f"{first}+{part}"
        if own_host and part in HOSTS:
            with pytest.raises(
                UsageError, match=r"expected no '.*', as .* includes (its host's|unified) memory"
            ):
                catalog.entry(Kind.MEMORY, name)
            assert part not in catalog.fitting(first)
        else:
            memory = catalog.memory(name)
            assert memory.name == name
            assert len(memory.tiers) == 2 + (first in GRACE)
            assert part in catalog.fitting(first)


@pytest.mark.parametrize("first", ACCELERATORS)
def test_every_number_has_a_source(first: str) -> None:
    for name in (*(f"{first}+{part}" for part in catalog.fitting(first)), *STACKS):
        entry = catalog.entry(Kind.MEMORY, name)
        assert quantities(entry) == set(entry["sources"])
        assert all(len(text) > 5 for text in (*entry["sources"].values(), entry["source"]))


@pytest.mark.parametrize("name", STACKS)
def test_traffic_crosses_the_link_and_what_a_part_consists_of(name: str) -> None:
    memory = catalog.memory(name)
    first, *rest = memory.tiers
    unified = name.split("+")[0] in UNIFIED
    assert first.reads == first.writes == (first.name,)
    own: list[str] = []
    for tier in rest:
        down, up = (tier.reads[:-1], tier.writes[:-1])
        assert len(down) == len(up) == (0 if unified else 1)
        assert all(way.endswith("_down") for way in down)
        assert all(way.endswith("_up") for way in up)
        read, write = tier.reads[-1], tier.writes[-1]
        assert read.startswith(tier.name)
        # a host's memory has one bus, everything else two directions
        assert (read == write) == (tier.name in (*HOSTS, "lpddr"))
        own += {read, write}
    assert len(own) == len(set(own))  # no part loads what another one consists of, DRAM included
    links = {way for tier in rest for way in (*tier.reads[:-1], *tier.writes[:-1])}
    assert len(links) == (0 if unified else 2)
    assert set(memory.resources) == {first.name, *links, *own}


@pytest.mark.parametrize("name", [name for name in ACCELERATORS if name.startswith(("a100", "h", "b200"))])
def test_an_accelerator_is_its_entry_without_the_host(name: str) -> None:
    link = {"a100": "-pcie4", "h100": "-pcie5", "h200": "-pcie5", "b200": "-pcie5"}[name[:4]]
    entry = name if "pcie" in name else re.sub("(-measured)?$", rf"{link}\1", name, count=1)
    composed, known = catalog.memory(f"{name}+ddr5"), catalog.memory(entry)
    assert composed.resources == known.resources
    assert composed.energy == known.energy
    assert composed.tiers[0] == known.tiers[0]
    for field in ("name", "reads", "writes"):
        assert getattr(composed.tiers[1], field) == getattr(known.tiers[1], field)
    same = {path: text for path, text in composed.sources.items() if not path.startswith("tiers.ddr5")}
    assert same == known.sources


@pytest.mark.parametrize("name", GRACE)
def test_grace_keeps_its_own_memory_in_its_size(name: str) -> None:
    composed, known = catalog.memory(f"{name}+nvme5"), catalog.memory(name)
    assert {each: composed.resources[each] for each in known.resources} == known.resources
    first, host, drive = composed.tiers
    assert first == known.tiers[0]
    assert (host.name, host.reads, host.writes) == (
        known.tiers[1].name, known.tiers[1].reads, known.tiers[1].writes,
    )  # fmt: skip
    assert (host.capacity, host.latency) == (240e9 if "512" in name else 480e9, 100e-9)
    assert drive.reads == ("c2c_down", "nvme5_read")
    assert drive.writes == ("c2c_up", "nvme5_write")


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("a100-40-measured", {"hbm": 1400, "pcie_down": 32, "pcie_up": 32}),
        ("a100-80-measured", {"hbm": 1774, "pcie_down": 32, "pcie_up": 32}),
        ("h100-measured", {"hbm": 3350, "pcie_down": 54, "pcie_up": 64}),
        ("gh200-96-measured", {"hbm": 3400, "c2c_down": 375, "c2c_up": 297, "lpddr": 486}),
        ("gh200-96-measured-memcpy", {"hbm": 3400, "c2c_down": 342, "c2c_up": 295, "lpddr": 486}),
        ("l4", {"gddr6": 300, "pcie_down": 32, "pcie_up": 32}),
        ("t4", {"gddr6": 320, "pcie_down": 16, "pcie_up": 16}),
        ("mi300x", {"hbm": 5300, "pcie_down": 64, "pcie_up": 64}),
        ("rtx-pro-6000", {"gddr7": 1792, "pcie_down": 64, "pcie_up": 64}),
        ("rtx-4090", {"gddr6x": 1008, "pcie_down": 32, "pcie_up": 32}),
        ("rtx-4060-laptop", {"gddr6": 256, "pcie_down": 16, "pcie_up": 16}),
        ("jetson-agx-orin", {"unified": 204.8}),
        ("m3-ultra", {"unified": 819}),
    ],
)
def test_bandwidths_of_accelerators(name: str, rates: dict[str, float]) -> None:
    resources = catalog.memory(f"{name}+nvme4").resources
    assert {key: rate / 1e9 for key, rate in resources.items() if "nvme" not in key} == rates


@pytest.mark.parametrize("rate", ["channel", "bus"])
def test_arithmetic_behind_bandwidths(rate: str) -> None:
    if rate == "channel":
        for name, channels, speed in (("ddr5", 12, 4800), ("ddr5-8ch", 8, 4800), ("ddr5-2ch", 2, 5600)):
            assert catalog.memory(f"l4+{name}").resources[name] == channels * 8 * speed * 1e6
        assert catalog.memory("l4+ddr4").resources["ddr4"] == 8 * 8 * 3200e6
    else:
        buses = {
            "rtx-4090": ("gddr6x", 384, 21e9), "rtx-4060-laptop": ("gddr6", 128, 16e9),
            "jetson-agx-orin": ("unified", 256, 6400e6), "strix-halo": ("unified", 256, 8000e6),
        }  # fmt: skip
        for name, (tier, bits, per_pin) in buses.items():
            assert catalog.memory(f"{name}+s3").resources[tier] == bits * per_pin / 8
        for speed in (100, 400):
            assert catalog.memory(f"l4+{speed}gbe").resources[f"{speed}gbe_up"] == speed * 1e9 / 8


def test_the_last_tier_has_the_size_of_its_part() -> None:
    assert catalog.memory("h100-pcie5").tiers[-1].capacity is None
    assert catalog.memory("h100+ddr5").tiers[-1].capacity == 768 * 2**30
    assert catalog.memory("h100+ddr5+s3").tiers[-1].capacity is None
    [room, _] = read_hardware(
        "h100+ddr5+nvme5", llm(), 1, overrides={"memory.tiers.nvme5.capacity": "unlimited"}
    )
    assert [tier.capacity for tier in room.tiers] == [80e9, 768 * 2**30, None]


def test_tiers_stand_in_the_order_of_the_name() -> None:
    """Not by bandwidth: a remote store is the last tier although its network is faster than a drive."""
    assert [tier.name for tier in catalog.memory("l4+ddr5+nvme4+400gbe").tiers][2:] == ["nvme4", "400gbe"]
    assert [tier.name for tier in catalog.memory("l4+ddr5+400gbe+nvme4").tiers][2:] == ["400gbe", "nvme4"]


WRONG = {
    "h10+ddr5": "an accelerator before the first '+', not 'h10'; did you mean 'h100'?",
    "h100+ddr5+nvm5": "a part after '+', not 'nvm5'; did you mean 'nvme5'?",
    "h100 + ddr5": "an accelerator before the first '+', not 'h100 '; did you mean 'h100'?",
    "ddr5+h100": "an accelerator before the first '+', not 'ddr5' (a part)",
    "+ddr5": "an accelerator before the first '+', not ''",
    "h100+": "a part after '+', not ''",
    "h100++ddr5": "a part after '+', not ''",
    "h100+ddr5+l4": "parts after the first '+', not 'l4' (an accelerator)",
    "h100+ddr5+nvme5+nvme5": "every part only once, not 'nvme5' twice",
    "h100+ddr5+ddr4": "one part for the host's memory, not 'ddr5' and 'ddr4'",
    "gh200-144+lpddr5x": "no 'lpddr5x', as gh200-144 includes its host's memory, 'lpddr'",
    "dgx-spark+ddr5": "no 'ddr5', as dgx-spark includes unified memory, 'unified'",
    "h100+s3+nvme5": "'s3' as the last part, as it is unlimited",
    "h100-pcie5+nvme5": "'h100+ddr5+nvme5', as h100-pcie5 is h100 and ddr5",
    "gh200-paper+nvme5": "an accelerator before the first '+', not 'gh200-paper'; did you mean 'gh200-96'?",
    "h100+ddr5+cxl2+cxl3+cxl2-effective+nvme4+nvme5+s3+400gbe": "'s3' as the last part, as it is unlimited",
    "h100+ddr5+cxl2+cxl3+cxl2-effective+nvme4+nvme5+400gbe+s3": "at most 8 tiers, not 9",
    "gh200-96+cxl2+cxl3+cxl2-effective+nvme4+nvme5+400gbe+s3": "at most 8 tiers, not 9",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_name_is_said_in_a_sentence(name: str) -> None:
    with pytest.raises(UsageError) as usage:
        catalog.entry(Kind.MEMORY, name)
    assert str(usage.value) == f"memory {name!r}: expected {WRONG[name]} (see 'kvbound catalog memory')"
    with pytest.raises(InputError) as error:
        catalog.entry(Kind.MEMORY, name, "x.json", "memory")
    assert str(error.value) == f"x.json: memory: expected in {name!r} {WRONG[name]}"
    assert catalog.find(Kind.MEMORY, name) is None


def test_as_many_tiers_as_a_memory_may_have() -> None:
    name = "h100+ddr5+cxl2+cxl3+cxl2-effective+nvme4+nvme5+s3"
    assert len(catalog.memory(name).tiers) == MAX_TIERS
    assert catalog.fitting(name) == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h100", "'h100' (an accelerator alone; parts make it a memory, as in 'h100+ddr5')"),
        ("m4-max", "'m4-max' (an accelerator alone; parts make it a memory, as in 'm4-max+nvme5')"),
        ("nvme5", "'nvme5' (a part alone; it follows an accelerator, as in 'h100+nvme5')"),
    ],
)
def test_an_accelerator_or_a_part_alone_is_no_memory(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        catalog.entry(Kind.MEMORY, name)
    with pytest.raises(InputError, match=re.escape(words)):
        catalog.entry(Kind.MEMORY, name, "x.json", "memory")


def test_only_memories_are_composed() -> None:
    with pytest.raises(UsageError, match=r"the catalog has no llm 'gpt2\+ddr5'"):
        catalog.entry(Kind.LLM, "gpt2+ddr5")


def test_entries_are_copies() -> None:
    name = "h100+ddr5"
    catalog.entry(Kind.MEMORY, name)["tiers"][1]["reads"].append("x")
    catalog.entry(Kind.MEMORY, name)["resources"]["hbm"] = 1
    catalog.entry(Kind.MEMORY, name)["energy"]["hbm"]["device"]["mid"] = 1
    assert catalog.memory(name).tiers[1].reads == ("pcie_down", "ddr5")
    assert catalog.memory(name).resources["hbm"] == 3350e9
    assert catalog.memory(name).energy["hbm"]["device"]["mid"] == 3.97


def test_an_instance_names_a_composed_memory() -> None:
    trace = {"prefill_tokens": 2, "reads": [[[0, 1]], [[2, 0]]]}
    named = make_instance("x", memory="l4+ddr5+nvme4", llm=llm(item=4, reads=[3]), trace=trace)
    entry = catalog.entry(Kind.MEMORY, "l4+ddr5+nvme4")
    whole = make_instance("x", memory=entry, llm=llm(item=4, reads=[3]), trace=trace)
    assert named.sha256 == whole.sha256
    assert named.memory == Memory.from_mapping(entry)
