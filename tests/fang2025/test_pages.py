"""The two kernels of the page rule on random states, including ones that no trace leads to."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.fang2025 import bits
from kvbound.fang2025.pages import swap_pages
from kvbound.fang2025.pages_numba import swap_pages as compiled


@settings(max_examples=200, deadline=None)
@given(
    layers=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.2, 0.7]),
    spare=st.integers(-20, 80),
)
def test_the_compiled_twin(layers: int, seed: int, density: float, spare: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, layer = 256, int(rng.integers(layers))
    flags = rng.random((layers, tokens)) < density
    flags[:, rng.random(tokens) < 0.3] = True
    pool = np.packbits(flags, axis=1, bitorder="little").view(np.uint16)
    wanted = rng.permutation(tokens)[: rng.integers(tokens)]
    now = bits.packed(rng.permutation(tokens)[:99], tokens // 64)
    used = bits.count(pool)
    mine, its = pool.copy(), pool.copy()
    result = swap_pages(mine, layer, wanted, now, used, used + spare)
    assert tuple(compiled(its, layer, wanted, now, used, used + spare)) == result
    np.testing.assert_array_equal(mine, its)
    assert result[0] == bits.count(mine)
    assert result[2] <= result[1]
