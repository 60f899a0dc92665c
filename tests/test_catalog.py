"""The catalog: everything loads, every number has a source, and the numbers are right."""

import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import pytest

from kvbound import catalog
from kvbound.catalog import Kind
from kvbound.errors import InputError, UsageError
from kvbound.llm.config import from_config
from kvbound.memory import Memory
from tests.instance_documents import GH200

MEMORIES = catalog.names(Kind.MEMORY)
STUDY = tuple(name for name in MEMORIES if name.startswith("tiered2026"))
HOSTED = tuple(name for name in MEMORIES if name not in STUDY)
LLMS = catalog.names(Kind.LLM)
PUBLISHED = {  # parameters, as the checkpoints' own index files count them; K and V bytes
    "llama-3.1-8b": (8_030_261_248, 4096),
    "llama-2-7b": (6_738_415_616, 16_384),
    "llama-3.1-70b": (70_553_706_496, 4096),
    "mixtral-8x7b": (46_702_792_704, 4096),
    "qwen2.5-7b": (7_615_616_512, 2048),
    "qwen3-32b": (32_762_123_264, 4096),
    "smollm2-135m": (134_515_008, 768),
    "tinyllama-1.1b": (1_100_048_384, 1024),
    "gpt2": (124_439_808, 3072),
    "deepseek-v3": (671_026_419_200, 1152),
}


def numbers(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of all quantities below `value`, tiers by name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("config", "sources"):
                yield from numbers(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for tier in value:
            yield from numbers(tier, f"{path}.{tier['name']}")
    elif isinstance(value, list):
        if any(isinstance(item, (int, float)) for item in value):
            yield path
    elif not isinstance(value, str) or re.match(r"[\d.]", value):
        yield path


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in Kind for name in catalog.names(kind)],
)
def test_every_number_has_a_source(kind: Kind, name: str) -> None:
    entry = catalog.entry(kind, name)
    sources = entry["sources"]
    # one source serves low, mid and high of an energy level
    found = {
        re.sub(r"^(energy\.\w+\.\w+|mac_energy\.\w+)\..*", r"\1", path)
        for path in numbers(entry)
        if path != "name"
    }
    assert found == set(sources)
    assert all(len(text) > 5 for text in (*sources.values(), entry["source"]))


@pytest.mark.parametrize("name", HOSTED)
def test_memories_load_and_are_two_tiers_behind_a_link(name: str) -> None:
    memory = catalog.memory(name)
    assert memory.name == name
    device, host = memory.tiers
    assert device.name == "hbm"
    assert device.reads == device.writes == ("hbm",)
    (down, bus), (up, same) = host.reads, host.writes
    assert bus == same == host.name
    assert down.endswith("_down")
    assert up.endswith("_up")
    assert set(memory.resources) == {"hbm", down, up, bus}
    assert memory.resources["hbm"] > memory.resources[bus]
    assert re.fullmatch(r"(gh200|h100|h200|b200|gb200|a100|nvlink3|pcie6)(-[a-z0-9]+)*", name)


def test_the_tiers_of_the_four_tier_study() -> None:
    code, article = map(catalog.memory, STUDY)
    assert [tier.name for tier in code.tiers] == ["hbm", "sram", "dram", "far"]
    assert code.bandwidths.tolist() == [3350e9, 10000e9, 68e9, 25e9]
    assert [tier.capacity for tier in code.tiers] == [32 * 2**30, 4 * 2**20, 64 * 2**30, 512 * 2**30]
    assert (code.joules_per_byte() * 1e12).tolist() == pytest.approx([4, 2, 25, 100])
    assert code.joules_per_mac() == pytest.approx(2 * 0.5e-12)
    assert [tier.name for tier in article.tiers] == ["hbm", "dram", "ssd", "remote"]
    assert (article.tiers[0], article.tiers[1]) == (code.tiers[0], code.tiers[2])


def test_gpus() -> None:
    known = {name: catalog.gpu(name) for name in catalog.names(Kind.GPU)}
    rates = {name: (gpu.flops / 1e12, gpu.bandwidth / 1e12) for name, gpu in known.items()}
    assert rates == {"a100-40": (312, 1.555), "a100-80": (312, 2), "l4": (121, 0.3), "t4": (65, 0.32)}
    with pytest.raises(UsageError, match="no gpu 'a100'"):
        catalog.gpu("a100")
    with pytest.raises(InputError, match="flops"):
        catalog.Gpu("none", 0, 1)


def test_gh200_144_is_the_documented_object() -> None:
    memory = catalog.memory("gh200-144")
    assert memory == Memory.from_mapping(GH200)
    assert list(memory.resources) == list(GH200["resources"])


@pytest.mark.parametrize(
    ("name", "link", "gib"),
    [("gh200-paper", 450, 23), ("nvlink3-paper", 300, 25), ("pcie6-paper", 64, 25), ("pcie6", 128, 25)],
)
def test_the_published_setting(name: str, link: float, gib: int) -> None:
    memory = catalog.memory(name)
    assert memory.bandwidths.tolist() == [4900e9, link * 1e9, link * 1e9, 500e9]
    assert memory.tiers[0].capacity == gib * 2**30


@pytest.mark.parametrize("name", [name for name in MEMORIES if "-measured" in name])
def test_measured_variants_differ_from_nominal_ones_in_bandwidth_only(name: str) -> None:
    measured, nominal = catalog.memory(name), catalog.memory(name.split("-measured")[0])
    assert measured.tiers == nominal.tiers
    assert list(measured.resources) == list(nominal.resources)
    assert (measured.bandwidths <= nominal.bandwidths).all()
    assert (measured.bandwidths < nominal.bandwidths).any()


def test_one_source_gives_one_number() -> None:
    seen: dict[tuple[str, str, str], float] = {}
    for name in MEMORIES:
        memory = catalog.memory(name)
        chip = name.split("-pcie")[0].split("-lpddr")[0].split("-measured")[0]
        for resource, rate in memory.resources.items():
            key = (chip, resource, memory.sources[f"resources.{resource}"])
            assert seen.setdefault(key, rate) == rate, key


@pytest.mark.parametrize("name", PUBLISHED)
def test_llms_follow_from_their_config(name: str) -> None:
    llm = catalog.llm(name)
    again = from_config(llm.config, name)
    assert llm == again
    assert llm.experts_mapping() == again.experts_mapping()
    parameters, kv_bytes = PUBLISHED[name]
    assert (llm.weight_bytes, llm.kv_bytes_per_token_layer) == (2 * parameters, kv_bytes)
    repository = llm.source.split(";")[0]
    assert llm.sources == {path: f"{repository}: {text}" for path, text in again.sources.items()}


def test_all_llms_except_the_paper_s_are_recomputed() -> None:
    assert set(LLMS) == set(PUBLISHED) | {"llama-3.1-8b-mha"}
    paper = catalog.llm("llama-3.1-8b-mha")
    width, inner = 4096, 14_000
    assert paper.kv_bytes_per_token_layer == 4 * width
    assert paper.weight_reads.tolist() == [8 * width**2 + width * inner / 2] * 32
    assert paper.weight_bytes == 8e9 * 2


def test_weights_read_by_hand() -> None:
    d, inner = 4096, 14_336
    attention = 2 * d * d + 2 * d * 1024
    assert catalog.llm("llama-3.1-8b").weight_reads[0] == 2 * (attention + 3 * d * inner)
    assert catalog.llm("mixtral-8x7b").weight_reads[0] == 2 * (attention + 8 * d + 2 * 3 * d * inner)
    assert catalog.llm("gpt2").weight_reads[0] == 2 * 12 * 768**2
    reads = catalog.llm("deepseek-v3").weight_reads
    assert reads.shape == (61,)
    assert len(np.unique(reads[3:])) == 1
    assert np.isclose(reads.sum() / 2, 35.7e9, rtol=1e-3)  # of 37e9 active; the rest is embedding and output


@pytest.mark.parametrize(
    ("kind", "wrong", "right"), [(Kind.MEMORY, "gh200-14", "gh200-144"), (Kind.LLM, "gpt-2", "gpt2")]
)
def test_unknown_names_suggest_the_closest(kind: Kind, wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"no {kind} '{wrong}'; did you mean '{right}'"):
        catalog.entry(kind, wrong)
    with pytest.raises(
        InputError, match=rf"^x\.json: {kind}: expected an entry of 'kvbound catalog {kind}' .*'{right}'"
    ):
        catalog.entry(kind, wrong, "x.json", str(kind))


@pytest.mark.parametrize("kind", list(Kind))
def test_the_files_are_plain_toml(kind: Kind) -> None:
    text = resources.files("kvbound").joinpath(f"instances/catalog/{kind}.toml").read_text("utf-8")
    assert tuple(tomllib.loads(text)) == catalog.names(kind)
