"""Loading KV again: the least time from each tier, and of recomputing."""

from dataclasses import replace

import pytest

from kvbound import catalog
from kvbound.errors import UsageError
from kvbound.memory import Memory, Tier
from kvbound.reload import kv_bytes, loads, recompute_s

LLM = catalog.llm("llama-3.1-8b")


def test_the_slowest_resource_on_the_way_decides() -> None:
    """Reads of the disk cross the link that writes to the fast memory share: 10 bytes there, and 10 again."""
    memory = Memory(
        "three",
        {"fast": 100.0, "link": 4.0, "disk": 5.0},
        (
            Tier("near", 10, ("fast",), ("fast", "link")),
            Tier("host", 10, ("link",), ("link",), latency=0.5),
            Tier("disk", 9, ("disk",), ("disk",), latency=1.0),
        ),
    )
    llm = replace(LLM, layers=1, kv_bytes_per_token_layer=10, weight_read_bytes_per_layer=1.0, windows=())
    host, disk = loads(memory, llm, 1)
    assert (host.tier, host.binds, host.fits) == ("host", "link", True)
    assert host.time_s == pytest.approx(2 * 10 / 4 + 0.5)
    assert (disk.binds, disk.fits) == ("disk", False)  # the link takes 2.5 s
    assert disk.time_s == pytest.approx(10 / 5 + 1.0)


def test_windows_keep_no_more_tokens_than_their_own() -> None:
    llm = replace(
        LLM, layers=2, windows=(None, 11), kv_bytes_per_token_layer=(3, 4), weight_read_bytes_per_layer=1.0
    )
    assert kv_bytes(llm, 5) == 35
    assert kv_bytes(llm, 100) == 300 + 40


def test_recomputing_takes_two_operations_per_parameter_that_layers_read() -> None:
    read = float(LLM.weight_reads.sum())
    assert recompute_s(LLM, 20_000, 989e12) == pytest.approx(2 * (read / 2) * 20_000 / 989e12)
    single = replace(LLM, config={"torch_dtype": "float32"})
    assert recompute_s(single, 20_000, 989e12) == pytest.approx(recompute_s(LLM, 20_000, 989e12) / 2)


@pytest.mark.parametrize(("tokens", "flops"), [(0, 1.0), (1, 0.0), (1, float("inf")), (1, float("nan"))])
def test_numbers_that_make_no_sense_are_refused(tokens: int, flops: float) -> None:
    with pytest.raises(UsageError):
        recompute_s(LLM, tokens, flops)
    if not tokens:
        with pytest.raises(UsageError):
            kv_bytes(LLM, tokens)
