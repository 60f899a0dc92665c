import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.trace import Trace, bits
from kvbound.trace.batch import batch
from kvbound.trace.statistics import LayerInfo, age_names, trace_info


def random_trace(seed: int) -> tuple[Trace, list[list[set[int]]]]:
    """A trace with own-token reads, and its reads of past tokens, [layer][step]."""
    rng = np.random.default_rng(seed)
    prefill, steps, layers = int(rng.integers(0, 150)), int(rng.integers(1, 300)), int(rng.integers(1, 3))
    density, keep = rng.random(), rng.random()
    past: list[list[set[int]]] = []
    for _ in range(layers):
        mask = rng.random(prefill + steps) < density
        past.append([])
        for step in range(steps):
            mask = np.where(rng.random(len(mask)) < keep, mask, rng.random(len(mask)) < density)
            past[-1].append(set(np.flatnonzero(mask[: prefill + step]).tolist()))
    own = rng.random((steps, layers)) < 0.3
    lists = [
        [sorted(past[layer][j] | ({prefill + j} if own[j, layer] else set())) for layer in range(layers)]
        for j in range(steps)
    ]
    return Trace.from_lists(prefill, lists), past


def defined(past: list[list[set[int]]], prefill: int) -> dict[str, Any]:
    """The same statistics by their definitions, over the layers in `past`."""
    counts = [len(step) for layer in past for step in layer]
    kept = [len(a & b) / len(a) for layer in past for a, b in itertools.pairwise(layer) if a]
    gaps: list[int] = []
    ages: list[int] = []
    for layer in past:
        last: dict[int, int] = {}
        for j, reads in enumerate(layer):
            gaps += [j - last[token] for token in reads if token in last]
            ages += [prefill + j - token for token in reads]
            last.update(dict.fromkeys(reads, j))
    gaps.sort()
    working = {}
    for window in (1, 8, 64):
        sizes = [
            len(set().union(*layer[start : start + window]))
            for layer in past
            for start in range(0, len(layer) - window + 1, window)
        ]
        if sizes:
            working[str(window)] = np.mean(sizes)
    working["all"] = np.mean([len(set().union(*layer)) for layer in past])
    limits = [0, 1, 4, 16, 64, 256, 1024, 4096, 16384, np.inf]
    classes = [sum(low < age <= high for age in ages) for low, high in itertools.pairwise(limits)]
    return {
        "reads_mean": np.mean(counts), "reads_min": min(counts), "reads_max": max(counts),
        "share_of_past": np.mean([len(r) / max(prefill + j, 1) for one in past for j, r in enumerate(one)]),
        "overlap": np.mean(kept) if kept else None,
        "reuse_gap": {
            **{f"p{p}": gaps[-(-len(gaps) * p // 100) - 1] for p in (50, 90, 99)},
            "share_1": gaps.count(1) / len(gaps),
        } if gaps else None,
        "age": dict(zip(age_names(), np.array(classes) / max(len(ages), 1), strict=True)),
        "working_set": working,
    }  # fmt: skip


def assert_equal(info: LayerInfo, plain: dict[str, Any]) -> None:
    for name, value in plain.items():
        assert getattr(info, name) == (None if value is None else pytest.approx(value)), name


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_statistics_follow_their_definitions(seed: int) -> None:
    trace, past = random_trace(seed)
    info = trace_info(trace)
    assert_equal(info.overall, defined(past, trace.prefill_tokens))
    for layer, one in zip(past, info.by_layer, strict=True):
        assert_equal(one, defined([layer], trace.prefill_tokens))
    own = trace.own_reads()
    assert info.overall.own_reads == own.sum()
    assert [one.own_reads for one in info.by_layer] == own.sum(axis=0).tolist()
    assert info.overall.reads_mean == pytest.approx(trace.past_counts().mean())


def test_age_classes_have_names() -> None:
    names = age_names()
    assert (names[:3], names[-1]) == (["1", "2-4", "5-16"], ">16384")


def test_ages_over_all_classes() -> None:
    rows = np.zeros((1, bits.row_bytes(20_001)), np.uint8)
    for token in (0, 10_000, 19_990, 19_999):
        rows[0, token // 8] |= 1 << token % 8
    age = trace_info(Trace(20_000, (rows,))).overall.age
    assert {name for name, share in age.items() if share} == {"1", "5-16", "4097-16384", ">16384"}


def test_mapping_and_progress() -> None:
    reported: list[float] = []
    trace, _ = random_trace(1)
    info = trace_info(trace, lambda done, total, note: reported.append(done / total))
    assert info.to_mapping()["overall"]["reads_max"] == info.overall.reads_max
    assert reported[-1] == 1


def test_ages_in_a_batch_are_those_of_its_sequences() -> None:
    one, _ = random_trace(7)
    alone, both = trace_info(one), trace_info(batch([one, one], [0, 3]))
    assert both.overall.age == alone.overall.age
    assert both.overall.own_reads == 2 * alone.overall.own_reads
