"""The published accounting through `kvbound.simulate`."""

import pytest

from kvbound.errors import UsageError
from kvbound.fang2025 import Setting
from kvbound.fang2025 import simulate as study
from kvbound.fang2025.adapter import PUBLISHED
from kvbound.instance import Instance
from kvbound.instance_io import make_instance
from kvbound.result import Status
from kvbound.simulation import simulate
from kvbound.workloads import Fang2025
from tests.instance_documents import linked_tiers, llm
from tests.test_simulation_results import Mine


def instance(capacity: str = "30%") -> Instance:
    memory = linked_tiers({"hbm": 4900e9, "down": 450e9, "up": 450e9, "lpddr": 500e9}, capacity)
    trace, model = (
        Fang2025(layers=2, prefill_tokens=60, decode_steps=20),
        llm(2, 16384, weights=1e6, reads=2e5),
    )
    return make_instance("t", memory=memory, llm=model, trace=trace, rules={"accounting": "fang2025"})


@pytest.mark.parametrize("policy", [name for name in PUBLISHED if name != "best"])
@pytest.mark.parametrize("kernel", ["numpy", None])
def test_results_are_those_of_the_simulator(policy: str, kernel: str | None) -> None:
    given = instance()
    result = simulate(given, policy, kernel=kernel)
    played = study(Setting.from_instance(given), given.trace, policy, kernel="numpy")
    assert result.status is Status.FEASIBLE
    assert result.measures is not None
    assert result.time_s == pytest.approx(played.total_s, rel=1e-12)
    assert result.measures.hit_rate_with_weights == pytest.approx(played.mean_alpha)
    assert result.measures.tpot_s["mean"] == pytest.approx(played.total_s / 20, rel=1e-12)
    assert sum(result.measures.hit_rate.values()) == pytest.approx(1)
    assert result.measures.peak_bytes["hbm"] <= (given.memory.tiers[0].capacity or 0)


def test_best_is_a_number_without_a_schedule_and_needs_no_trace() -> None:
    given = instance("60%")
    result = simulate(given, "best")
    assert "trace" not in vars(given)
    assert (result.status, result.schedule, result.instance.sha256) == (Status.UNKNOWN, None, None)
    static = simulate(given, "static")
    assert 0 < (result.time_s or 0) <= (static.time_s or 0)
    assert result.measures is not None
    assert result.measures.tpot_s["mean"] * 20 == pytest.approx(result.time_s)


@pytest.mark.parametrize("policy", ["lru", "belady", "nonsense"])
def test_other_policies_need_the_other_accounting(policy: str) -> None:
    with pytest.raises(UsageError, match=r"fang2025 accounting knows static, .*use accounting physical"):
        simulate(instance(), policy)


def test_own_policies_need_the_other_accounting() -> None:
    static = Mine()
    static.name = "static"
    with pytest.raises(UsageError, match="use accounting physical"):
        simulate(instance(), static)


def test_options() -> None:
    assert simulate(instance(), "sa-guided", window=2, topk=1.0).options == {"window": 2, "topk": 1.0}
    with pytest.raises(UsageError, match="policy static takes no options, not 'window'"):
        simulate(instance(), "static", window=2)
    with pytest.raises(UsageError, match="policy page takes no options, not 'size'"):
        simulate(instance(), "page", size=16)


def test_weights_that_do_not_fit_are_infeasible() -> None:
    assert simulate(instance("1kB"), "static").status is Status.INFEASIBLE
