"""Small settings with drifting traces that cover every clause of the rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from kvbound.fang2025 import Setting
from kvbound.trace import Trace
from tests.fang2025.oracle import Oracle

POLICIES = ["static", "reactive", "page", "lookahead-one", "sa-guided", "best"]
RATES = [(450, 450, 500), (64, 64, 500), (600, 600, 500), (450, 20, 500), (499, 10, 500), (500, 500, 300)]


@dataclass(frozen=True)
class Case:
    setting: Setting
    prefill: int
    reads: list[list[list[int]]]  # steps x layers x ids in list order
    window: int = 5
    topk: float = 0.5

    @property
    def trace(self) -> Trace:
        return Trace.from_lists(self.prefill, self.reads)

    def oracle(self) -> Oracle:
        s = self.setting
        return Oracle(
            self.prefill, self.reads, s.item_bytes, list(s.weight_reads), s.room, s.capacity,
            s.b_hbm, s.b_read, s.b_write, s.b_internal, self.window, self.topk,
        )  # fmt: skip


def drifting(
    rng: np.random.Generator,
    prefill: int,
    steps: int,
    layers: int,
    share: float,
    churn: float,
    own: bool,
    shuffled: bool,
) -> list[list[list[int]]]:
    """Reads of which each step keeps most; sizes vary, and some lists are empty."""
    last: list[set[int]] = [set() for _ in range(layers)]
    reads = []
    for n in range(prefill, prefill + steps):
        row = []
        for layer in range(layers):
            size = int(rng.binomial(n, share)) if n else 0
            kept = {t for t in last[layer] if rng.random() > churn}
            while len(kept) < size:
                kept.add(int(rng.integers(n)))
            last[layer] = kept
            ids = sorted(kept | ({n} if own and rng.random() < 0.6 else set()))
            row.append(rng.permutation(ids).tolist() if shuffled else ids)
        reads.append(row)
    return reads


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layers = draw(st.integers(1, 3))
    prefill, steps = draw(st.integers(0, 70)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share, churn = draw(st.sampled_from([0.1, 0.4, 0.8])), draw(st.sampled_from([0.05, 0.3, 0.9]))
    own, shuffled = draw(st.booleans()), draw(st.booleans())
    reads = drifting(rng, prefill, steps, layers, share, churn, own, shuffled)
    item, items = 64, layers * (prefill + steps)
    room = draw(st.one_of(st.integers(0, 3), st.integers(0, items), st.integers(items, 2 * items + 60)))
    weights = draw(st.sampled_from([16.0, 700.0, 3328.0]))
    read, write, internal = draw(st.sampled_from(RATES))
    setting = Setting(
        item_bytes=item,
        weight_reads=tuple(weights + 10 * layer for layer in range(layers)),
        weight_bytes=2000,
        capacity=2000 + item * room + draw(st.integers(0, item - 1)),
        b_hbm=4900e9, b_read=read * 1e9, b_write=write * 1e9, b_internal=internal * 1e9,
    )  # fmt: skip
    return Case(
        setting, prefill, reads, draw(st.integers(1, 12)), draw(st.sampled_from([0.1, 0.3, 0.5, 1.0]))
    )
