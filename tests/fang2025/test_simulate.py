"""Every policy against the authors' totals and against a literal implementation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import InfeasibleError, InputError, UsageError
from kvbound.fang2025 import POLICIES, Run, Setting, simulate
from kvbound.trace import Trace, read_trace
from tests.fang2025.cases import Case, cases
from tests.fang2025.oracle import Endless
from tests.paths import DATA

STUDY = DATA / "fang2025"
REFERENCE: dict[str, Any] = json.loads((STUDY / "reference.json").read_text())["traces"]
EXACT = {
    "static": "static",
    "reactive": "reactive",
    "page": "page",
    "lookahead-one": "lookahead_one",
    "best": "best",
}
GUIDED = {(5, 0.5): "sa_w5_k0.5", (1, 1.0): "sa_w1_k1.0", (10, 0.2): "sa_w10_k0.2"}


def reference(name: str) -> tuple[Setting, Trace, dict[str, Any]]:
    entry = REFERENCE[name]
    config, derived = entry["config"], entry["derived"]
    setting = Setting(
        item_bytes=derived["kv_bytes_per_token_layer"],
        weight_reads=(derived["weight_read_bytes_per_layer_step"],) * config["L"],
        weight_bytes=config["weights_bytes"],
        capacity=config["C_HBM_bytes"],
        b_hbm=config["B_HBM"] * 1e9,
        b_read=config["B_ext_interface_R"] * 1e9,
        b_write=config["B_ext_interface_W"] * 1e9,
        b_internal=config["B_ext_internal"] * 1e9,
        name=name,
    )
    return setting, read_trace(STUDY / entry["file"]), entry["results"]


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("name", REFERENCE)
def test_the_authors_totals(name: str, kernel: str) -> None:
    setting, trace, results = reference(name)
    for policy, key in EXACT.items():
        run = simulate(setting, trace, policy, kernel=kernel)
        assert run.total_s * 1e9 == pytest.approx(results[key]["total_ns"], rel=1e-12), policy
        if policy != "best":  # whose reference mean_alpha is static's
            assert run.mean_alpha == pytest.approx(results[key]["mean_alpha"], rel=1e-12), policy
    for (window, topk), key in GUIDED.items():
        run = simulate(setting, trace, "sa-guided", window=window, topk=topk, kernel=kernel)
        assert run.total_s * 1e9 == pytest.approx(results[key]["total_ns"], rel=0.01)
        assert run.mean_alpha == pytest.approx(results[key]["mean_alpha"], rel=0.01)


def same_as_twin(case: Case, policy: str, kernel: str, record: bool) -> None:
    oracle, options = case.oracle(), {"window": case.window, "topk": case.topk, "kernel": kernel}
    try:
        slots = oracle.run(policy)
    except Endless:
        with pytest.raises(InfeasibleError, match="never ends"):
            simulate(case.setting, case.trace, policy, **options)  # type: ignore[arg-type]
        return
    run = simulate(case.setting, case.trace, policy, record=record, **options)  # type: ignore[arg-type]
    shape = len(case.reads), len(case.reads[0])
    for field in ("reads", "hits", "beta", "promoted", "external"):
        ours = getattr(run, field)
        if ours is not None:
            np.testing.assert_array_equal(
                ours, np.array([getattr(s, field) for s in slots]).reshape(shape), field
            )
    for field in ("alpha", "time_s"):
        expected = np.array([getattr(s, field) for s in slots]).reshape(shape)
        np.testing.assert_allclose(getattr(run, field), expected, rtol=1e-13)
    assert run.total_s == pytest.approx(sum(s.time_s for s in slots), rel=1e-12)
    assert run.peak_items == max(len(pool) for pool in [oracle.initial, *(s.pool for s in slots)])
    if run.log:
        replay(case, run, [{(k, t) for k, t in oracle.initial}, *(set(s.pool) for s in slots)])


def replay(case: Case, run: Run, pools: list[set[tuple[int, int]]]) -> None:
    """Assert that the log leads from pool to pool, and shows each placed new token."""
    log, layers = run.log, len(case.reads[0])
    assert log is not None
    item = [{(int(i) % layers, int(i) // layers) for i in log.initial}]
    assert item[0] == pools[0]
    for slot, beta in enumerate(run.beta.ravel()):
        added, removed = (
            {(int(i) % layers, int(i) // layers) for i in items[where == slot]}
            for where, items in ((log.add_slot, log.add_item), (log.remove_slot, log.remove_item))
        )
        both = added & removed
        assert pools[slot + 1] == (pools[slot] | added) - removed
        assert not (added - both) & pools[slot]
        assert removed - both <= pools[slot]
        step, layer = divmod(slot, layers)
        newborn = (layer, case.prefill + step)
        assert both <= {newborn}
        assert not beta or newborn in pools[slot] | added


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=120, deadline=None)
@given(case=cases(), kernel=st.sampled_from(["numpy", "numba"]), record=st.booleans())
def test_the_literal_twin(policy: str, case: Case, kernel: str, record: bool) -> None:
    same_as_twin(case, policy, kernel, record)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=800, deadline=None)
@given(case=cases(), kernel=st.sampled_from(["numpy", "numba"]))
def test_the_literal_twin_at_length(policy: str, case: Case, kernel: str) -> None:
    same_as_twin(case, policy, kernel, record=True)


@settings(max_examples=30, deadline=None)
@given(case=cases())
def test_list_order_does_not_matter_to_static(case: Case) -> None:
    ascending = Trace.from_lists(case.prefill, [[sorted(ids) for ids in row] for row in case.reads])
    run, sorted_run = (simulate(case.setting, trace, "static") for trace in (case.trace, ascending))
    np.testing.assert_array_equal(run.time_s, sorted_run.time_s)


def test_static_in_closed_form_and_slot_by_slot() -> None:
    setting, trace, _ = reference("t4_L2_p256_n256_s85_high")
    fast, slow = simulate(setting, trace, "static"), simulate(setting, trace, "static", record=True)
    np.testing.assert_array_equal(fast.hits, slow.hits)
    np.testing.assert_array_equal(fast.beta, slow.beta)
    np.testing.assert_array_equal(fast.time_s, slow.time_s)
    assert fast.peak_items == slow.peak_items


def test_progress_ends_at_its_total() -> None:
    setting, trace, _ = reference("t7_L3_p200_n150_s85_fastlink")
    for policy in ("static", "reactive"):
        calls: list[tuple[float, float, str]] = []
        simulate(setting, trace, policy, progress=lambda *call: calls.append(call))  # noqa: B023
        assert calls[-1][0] == calls[-1][1]


def test_refusals() -> None:
    setting, trace, _ = reference("t1_L2_p128_n128_s60_low")
    for options in ({"window": 0}, {"topk": 0.0}, {"topk": 1.1}, {"kernel": "fortran"}):
        with pytest.raises(UsageError):
            simulate(setting, trace, "sa-guided", **options)
    with pytest.raises(UsageError, match="lookahead-one"):
        simulate(setting, trace, "lookahead")
    other = Trace.from_lists(2, [[[0, 1]]])
    for policy in POLICIES:
        with pytest.raises(InputError, match="2 layers"):
            simulate(setting, other, policy)
