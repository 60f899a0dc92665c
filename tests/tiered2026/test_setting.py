import math
from dataclasses import replace
from fractions import Fraction

import pytest

from kvbound import catalog
from kvbound.errors import InfeasibleError, InputError
from kvbound.memory import Memory, Tier
from kvbound.tiered2026 import Setting
from tests.tiered2026.cases import model, setting


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m", (199_849_312, 152_651_872, 129_053_152, 117_273_952, 129_070_432)),
        ("tinyllama-1.1b", (761_085_312, 714_936_704, 691_862_400, 680_344_960, 691_879_296)),
        ("llama-2-7b", (6_229_012_160, 5_155_008_192, 4_618_006_208, 4_349_963_968, 4_618_399_424)),
    ],
)
def test_bytes_per_token_at_4096(name: str, expected: tuple[int, ...]) -> None:
    full = setting(name)
    formats = [setting(name, bits).bytes_per_token(4096) for bits in (16, 8, 4)]
    assert (*formats, *(full.bytes_per_token(4096, window) for window in (512, 1024))) == expected
    assert full.bytes_per_token(100, 512) == full.bytes_per_token(100)


def test_kv_per_token() -> None:
    sizes = [setting(name).kv_bytes for name in ("smollm2-135m", "tinyllama-1.1b", "llama-2-7b")]
    assert sizes == [23_040, 22_528, 524_288]
    assert setting("smollm2-135m", 4).kv_bytes == Fraction(23_040, 4)
    assert setting("llama-2-7b").most_tokens(setting("llama-2-7b").home) == 65_536


CONTEXTS = [128 * 4**n for n in range(8)]


@pytest.mark.parametrize(
    ("name", "bits", "expected"),
    [
        ("llama-2-7b", 16, ["hbm"] * 5 + ["dram", "far"]),
        ("llama-2-7b", 8, ["hbm"] * 6 + ["far"]),
        ("llama-2-7b", 4, ["hbm"] * 6 + ["dram", "far"]),
        ("smollm2-135m", 16, ["sram"] + ["hbm"] * 6 + ["dram"]),
    ],
)
def test_where_contexts_land(name: str, bits: int, expected: list[str]) -> None:
    case = setting(name, bits)
    assert [case.landing(tokens).name for tokens in CONTEXTS[: len(expected)]] == expected


def test_a_context_that_no_tier_holds() -> None:
    with pytest.raises(InfeasibleError, match=r"no single tier holds 1\.1 TB of KV, 2,097,152 tokens"):
        setting("llama-2-7b").landing(CONTEXTS[-1])
    unlimited = setting("llama-2-7b", memory="tiered2026-article")
    assert [place.name for place in unlimited.tiers] == ["hbm", "dram", "ssd", "remote"]
    assert unlimited.landing(10**9).name == "remote"
    assert unlimited.most_tokens(unlimited.tiers[-1]) == math.inf


def test_other_memories() -> None:
    """Tiers behind a link, and one without a resource for writes."""
    case = setting("llama-2-7b", memory="h100+ddr5+nvme5")
    assert [place.read for place in case.tiers] == [3350e9, 64e9, 13e9]
    rates = {"a": 10.0, "b": 2.0}
    memory = Memory("m", rates, (Tier("a", 10**9, ("a",), ()), Tier("b", None, ("b", "a"), ("b",))))
    places = setting("smollm2-135m", memory=memory).tiers
    assert [(place.read, place.write) for place in places] == [(10.0, math.inf), (2.0, 2.0)]
    assert math.isnan(places[0].joules)


def test_energy_of_a_step() -> None:
    weights, kv, mac = setting("llama-2-7b").joules(4096)
    assert weights == pytest.approx(4_081_004_224 * 4e-12)
    assert kv == pytest.approx(4097 * 524_288 * 4e-12)
    assert mac == pytest.approx(2 * 6.7e9 * 0.5e-12)
    assert setting("llama-2-7b").joules(65_537)[1] == pytest.approx(65_538 * 524_288 * 25e-12)
    assert all(map(math.isnan, setting("llama-2-7b", memory="tiered2026-article").joules(10)))


def test_mistakes() -> None:
    memory = catalog.memory("tiered2026")
    for bits in (0, 65, 1.5):
        with pytest.raises(InputError, match="1 to 64 bits"):
            Setting.of(memory, model("llama-2-7b"), bits)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="parameters"):
        Setting.of(memory, replace(model("llama-2-7b"), parameters=None))
