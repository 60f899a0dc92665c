import math

import numpy as np
import pytest

from kvbound.errors import InfeasibleError, UsageError
from kvbound.tiered2026 import SPREAD, Run, adaptive_spread, fill_first, spill_all
from kvbound.tiered2026.steps import Floats
from tests.tiered2026.cases import literal, setting

PROMPT = 128


def run(name: str, last: int, bits: int = 16) -> Run:
    return Run(setting(name, bits), PROMPT, last - PROMPT)


def figures(times: Floats) -> tuple[float, float, float]:
    """Longest step, 99th percentile and total, ms."""
    return 1e3 * float(times.max()), 1e3 * float(np.percentile(times, 99)), 1e3 * math.fsum(times.tolist())


def close(value: float, digits: int) -> object:
    return pytest.approx(value, abs=0.5 * 10.0**-digits, rel=0)


def test_llama_to_65792_tokens() -> None:
    case = run("llama-2-7b", 65_792)
    [crossing] = case.crossings
    assert (crossing.step, crossing.source, crossing.target) == (65_409, "hbm", "dram")
    assert crossing.kv_bytes == 34_360_262_656
    static, adaptive = figures(spill_all(case)), figures(adaptive_spread(case))
    assert static == (close(1011.8218808, 7), close(11.4123048891, 10), close(546_211.36584143, 8))
    assert adaptive == (close(538.1050243, 7), close(11.4123048891, 10), close(546_211.36584143, 8))
    assert 100 * (adaptive[0] / static[0] - 1) == close(-46.81820639, 8)


def test_tinyllama_to_200000_tokens() -> None:
    case = run("tinyllama-1.1b", 200_000)
    [crossing] = case.crossings
    assert (crossing.step, crossing.source, crossing.target) == (59, "sram", "hbm")
    assert crossing.kv_bytes == 4_212_736
    for times in (spill_all(case), adaptive_spread(case)):
        assert figures(times) == (close(1.5446001863, 10), close(1.5311593090, 10), close(174_399.5374150, 7))


def test_the_last_step_split_over_tiers() -> None:
    case = run("llama-2-7b", 65_792)
    last = case.tokens[-1:]
    assert 1e3 * fill_first(case.setting, last, weights_inside=False)[0] == close(11.47, 2)
    inside = 1e3 * fill_first(case.setting, last, weights_inside=True)[0]
    assert inside == pytest.approx(61.97, rel=2e-4)  # 61.98 with the 65,791 tokens that the step reads
    assert inside == pytest.approx((65_791 * 524_288 - (32 * 2**30 - 4_081_004_224)) / 68e9 * 1e3)
    assert 1e3 * case.plain_s[-1] == close(508.5, 1)


@pytest.mark.parametrize("spread", [1, 3, SPREAD, 1000])
@pytest.mark.parametrize(("name", "bits", "steps"), [("smollm2-135m", 16, 100), ("llama-2-7b", 4, 60)])
def test_steps_agree_with_a_loop(name: str, bits: int, steps: int, spread: int) -> None:
    case = Run(setting(name, bits), 8, steps)
    times, crossings = literal(case.setting, 8, steps, spread)
    assert [(each.step, each.source, each.target) for each in case.crossings] == crossings
    if name == "llama-2-7b":
        assert crossings == [(25, "sram", "hbm")]
    assert adaptive_spread(case, spread).tolist() == pytest.approx(times, rel=1e-13)
    if spread == 1:
        assert spill_all(case).tolist() == pytest.approx(times, rel=1e-13)


def test_shares_before_the_first_step_are_lost() -> None:
    case = Run(setting("llama-2-7b", 4), 31, 20)
    [crossing] = case.crossings
    assert crossing.step == 2
    extra = adaptive_spread(case) - case.plain_s
    assert math.fsum(extra.tolist()) == pytest.approx(crossing.seconds * 2 / SPREAD)


def test_a_tier_may_be_skipped() -> None:
    """A tier smaller than a faster one never holds the KV."""
    case = Run(setting("llama-2-7b", memory="h100+ddr5-2ch+nvme5"), 150_000, 100_000)
    assert [each.target for each in case.crossings] == [
        case.setting.landing(int(case.tokens[each.step - 1])).name for each in case.crossings
    ]


def test_mistakes() -> None:
    case = setting("llama-2-7b")
    for prompt, steps in ((0, 5), (5, 0)):
        with pytest.raises(UsageError, match="a prompt of at least 1"):
            Run(case, prompt, steps)
    with pytest.raises(InfeasibleError, match="no single tier"):
        Run(case, 128, 2_000_000)
    with pytest.raises(UsageError, match="at least 1 step, not 0"):
        adaptive_spread(Run(case, 8, 8), 0)
    with pytest.raises(InfeasibleError, match="together"):
        fill_first(case, np.array([2_000_000]), weights_inside=False)
