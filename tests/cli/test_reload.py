"""``kvbound reload``."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run

NVME = ("reload", "--llm", "llama-3.1-8b", "--memory", "h100+ddr5+nvme4", "--tokens", "20000")


def test_a_disk_whose_path_is_a_hundred_times_too_slow(run: Run) -> None:
    ran = run(*NVME, "--recompute", "900ms", "--measured", 40)
    assert ran.code == 0
    assert "the KV of 20,000 tokens takes 2.621 GB" in ran.out
    assert "loading can be faster from ddr5 and nvme4. Both take equally long at 2.913 GB/s." in ran.out
    assert "The measured 40 s are 976.6x the least time from ddr5." in ran.out
    known = run(*NVME, "--recompute", "900ms", "--measured", 40, "--json").json
    assert known["schema"] == "kvbound.reload/1"
    assert known["kv_bytes"] == 20_000 * 131_072
    host, disk = known["rows"]
    assert host["time_s"] == pytest.approx(0.041, abs=5e-4)
    assert disk["time_s"] == pytest.approx(0.386, abs=5e-4)
    assert disk["binds"] == "nvme4_read"
    assert disk["recompute_over_load"] == pytest.approx(2.33, abs=5e-3)
    assert disk["measured_over_load"] == pytest.approx(103.7, abs=0.1)


def test_recomputing_from_a_peak_rate_and_a_measurement_that_no_tier_explains(run: Run) -> None:
    ran = run(*NVME, "--tflops", 5000, "--measured", "10ms")
    assert "No system is that fast from ddr5 and nvme4: the KV came from elsewhere." in ran.out
    assert "loading can be faster from ddr5." in ran.out
    assert "cannot be faster from any tier that holds it" in run(*NVME, "--recompute", "1ms").out
    assert "recompute" not in run(*NVME).out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--tokens", "0"), "--tokens: expected whole numbers from 1 on"),
        (("--tokens", "1,2"), "--tokens: expected one number, not '1,2'"),
        (("--recompute", "soon"), "--recompute: expected a time"),
        (("--tflops", "0"), "--tflops: expected a rate above 0, not 0"),
        (("--tflops", "1", "--recompute", "1"), "give --recompute or --tflops, not both"),
    ],
)
def test_bad_options_are_named(run: Run, more: tuple[str, ...], said: str) -> None:
    ran = run(*NVME, *more)
    assert ran.code == 2
    assert said in ran.err


def test_what_is_missing_is_named(run: Run) -> None:
    ran = run("reload", "--llm", "llama-3.1-8b", "--tokens", "5")
    assert ran.code == 2
    assert "give --llm, --memory and --tokens" in ran.err
