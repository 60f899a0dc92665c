"""Number formats of the cache: bytes by hand, and what tiers hold in them."""

import json
from pathlib import Path
from typing import Any

import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.instance_io import from_mapping, make_instance
from kvbound.llm.config import read_llm
from kvbound.llm.formats import FORMATS, Format, KvShape, known, kv_shape
from tests.instance_documents import DOCUMENT, changed


@pytest.mark.parametrize(
    ("name", "bytes_of_128", "saved"),
    [
        ("f16", 256, 0), ("bf16", 256, 0), ("fp8", 128, 50), ("q8_0", 136, 46.9), ("q5_1", 96, 62.5),
        ("q5_0", 88, 65.6), ("q4_1", 80, 68.8), ("q4_0", 72, 71.9), ("int8-g128", 130, 49.2),
        ("int4-g64", 68, 73.4), ("int4-g32-zero", 80, 68.8), ("f32", 512, -100),
    ],
)  # fmt: skip
def test_bytes_of_a_row_of_128_values(name: str, bytes_of_128: int, saved: float) -> None:
    found = known(name)
    assert found is not None
    assert found.row_bytes(128) == bytes_of_128
    assert round(100 * (1 - bytes_of_128 / 256), 1) == saved


def test_rows_are_padded_to_whole_blocks() -> None:
    assert FORMATS["q4_0"].row_bytes(33) == 36
    assert KvShape(8, 80).bytes(FORMATS["q4_0"]) == 8 * 3 * 18
    assert KvShape(1, 640).bytes(FORMATS["q4_0"]) == 20 * 18
    assert known("int4-g0") is None
    assert known("int3-g64") is None
    assert known("int4-g3") == Format(3, 4)  # two bytes of values, two of the scale


def test_the_shape_follows_from_a_configuration_that_agrees() -> None:
    config = {"hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8}
    f16 = FORMATS["f16"]
    assert kv_shape(2 * 8 * 80 * 2, f16, config) == KvShape(8, 80)
    assert kv_shape(2 * 8 * 80 * 2, f16, config | {"head_dim": 128}) == KvShape(1, 640)
    assert kv_shape(2 * 8 * 80 * 2, f16, {}) == KvShape(1, 640)
    assert kv_shape(2 * 8 * 80, FORMATS["fp8"], config) == KvShape(8, 80)
    assert kv_shape(6, f16, {}) is None


def test_a_model_of_the_catalog_in_four_bits_on_its_slow_tier() -> None:
    trace: dict[str, Any] = {"reads": [[[0]] * 32], "prefill_tokens": 1}
    parts: dict[str, Any] = {"memory": "gh200-144", "llm": "llama-3.1-8b", "trace": trace}
    plain = make_instance("x", **parts)
    cold = make_instance("x", **parts, formats={"lpddr": {"k": "q8_0", "v": "q4_0"}})
    # eight rows of 128 values: 8 * 4 blocks of 34 and of 18 bytes
    assert cold.unit_sizes == (4096, 32 * (34 + 18))
    assert make_instance("x", **parts, overrides={"formats.lpddr": "q4_0"}).unit_sizes == (4096, 64 * 18)
    same = make_instance("x", **parts, formats={"lpddr": "bf16", "hbm": None})
    assert same.sha256 == plain.sha256 != cold.sha256
    spelled = from_mapping(cold.document(trace))
    assert spelled.sha256 == cold.sha256
    assert cold.expanded()["formats"] == {"lpddr": {"bytes": 1664}}
    assert "formats" not in plain.expanded()


def test_capacities_and_shares_are_in_the_sizes_of_their_tiers() -> None:
    document = changed("memory/tiers/0/capacity", "50%", DOCUMENT) | {
        "formats": {"hbm": {"bytes": 6}, "ddr.0": "q4_0"}
    }
    document = changed("memory/tiers/1/capacity", 100, document)
    document = changed("llm/kv_bytes_per_token_layer", 128, document)
    instance = from_mapping(document)
    assert instance.unit_sizes == (6, 36)
    assert instance.memory.tiers[0].capacity == 12  # half of four tokens
    document = changed("memory/tiers/1/capacity", 4 * 36, document)
    assert from_mapping(document).capacity_units == (2, 4)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({"ddr.0": "q9_0"}, r"formats.ddr.0: expected a format \(f32, f16, .*not 'q9_0'"),
        ({"ddr.0": 4}, "formats.ddr.0: expected a format"),
        ({"ddr.0": {"k": "q4_0"}}, "formats.ddr.0.v"),
        ({"ddr.0": {"k": "q4_0", "v": "q4_0", "w": 1}}, "formats.ddr.0.w"),
        ({"ddr.0": {"bytes": 0}}, "formats.ddr.0.bytes: expected an integer from 1"),
        ({"ssd": "q4_0"}, "formats.ssd: expected one of"),
        ({"ddr.0": {"k": "q4_0", "v": "q4"}}, "did you mean"),
        ([], "formats: expected a table"),
    ],
)
def test_other_formats_are_refused(formats: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(DOCUMENT | {"formats": formats})


def test_a_cache_without_whole_values_has_no_other_format() -> None:
    odd = changed("llm/kv_bytes_per_token_layer", 6, DOCUMENT)
    with pytest.raises(
        InputError, match=r"formats.ddr.0: expected {'bytes': ...}, as 6 B of f16 are no whole"
    ):
        from_mapping(odd | {"formats": {"ddr.0": "q4_0"}})


def test_smaller_cold_items_by_hand() -> None:
    """One layer, items of 4 bytes on the fast bus of 4 B/s and of 1 byte on the slow one of 1 B/s."""
    document = changed("trace", {"prefill_tokens": 2, "reads": [[[0, 1]]]}, DOCUMENT)
    document = changed("memory/resources", {"fast": 4, "slow": 1}, document) | {
        "formats": {"ddr.0": {"bytes": 1}}
    }
    document = changed("llm/weight_read_bytes_per_layer", 0, document)
    document = changed("rules", {"copies": "exclusive", "migration": "none"}, document)
    # the birth goes to the slow tier where the other is full; with room for one, each tier takes two seconds
    # for one read and the birth, or for two reads
    for capacity, expected in ((8, 2.0), (4, 2.0), (0, 3.0)):
        instance = from_mapping(changed("memory/tiers/0/capacity", capacity, document))
        for method in ("brute", "exact"):
            assert kv.solve(instance, method).time_s == pytest.approx(expected)


def test_a_cache_read_from_a_configuration_keeps_its_format(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    trace: dict[str, Any] = {"reads": [[[0]]], "prefill_tokens": 1}
    for dtype, cached in (("bf16", 2), ("fp8", 1)):
        llm = read_llm(path, kv_dtype=dtype)
        cold = make_instance("x", memory="gh200-144", llm=llm, trace=trace, formats={"lpddr": "q8_0"})
        # two rows of 16 values of K, and of V, each padded to 32
        assert cold.unit_sizes == (64 * cached, 4 * 34)
    llm = read_llm(path, kv_dtype="int4")
    with pytest.raises(InputError, match=r"formats.lpddr: expected {'bytes': \.\.\.}"):
        make_instance("x", memory="gh200-144", llm=llm, trace=trace, formats={"lpddr": "q8_0"})
