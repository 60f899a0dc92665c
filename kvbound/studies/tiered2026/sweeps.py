"""How much a better placement is worth: the last step, longer contexts and more users at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from kvbound.errors import InfeasibleError
from kvbound.limit import Decoding, decode_limit
from kvbound.llm.model import Llm
from kvbound.memory import Memory
from kvbound.report.sections import Figure, Section, Table
from kvbound.studies.tiered2026 import published
from kvbound.studies.tiered2026.published import CONTEXT, LLAMA, RUNS
from kvbound.tiered2026 import Setting, fill_first

FILL_FIRST_MS: Final = {"outside": 11.47, "inside": 61.97}
"""Last step of the Llama run by hand: HBM first, tiers side by side, weights outside of HBM and inside."""
BUDGETS_MS: Final = (5.0, 11.5, 50.0, 100.0, 500.0)
"""Times per step at which contexts and users are compared."""
_MOST: Final = 1 << 24
_WHERE: Final = ("outside", "inside")


def _memory(where: str) -> Memory:
    return published.memory(published.TIERS, LLAMA, weights_inside=where == "inside")


def least_s(memory: Memory, llm: Llm, context: int, users: int = 1) -> float:
    """Return a time lower bound of a step, infinite where the tiers do not hold the KV.

    Parameters
    ----------
    context
        Tokens of each user whose KV is read.
    """
    try:
        return decode_limit(Decoding(memory, llm, context, batch=users)).time_s
    except InfeasibleError:
        return np.inf


def filled_s(setting: Setting, tokens: int, where: str) -> float:
    """Return the time of a step that reads the KV of that many tokens, HBM first, infinite as above."""
    try:
        return float(fill_first(setting, np.array([tokens + 1]), weights_inside=where == "inside")[0])
    except InfeasibleError:
        return np.inf


def spilled_s(setting: Setting, tokens: int, written: int = 1) -> float:
    """Return the time of a step with the whole KV in one tier, infinite as above.

    Parameters
    ----------
    tokens
        Tokens whose KV is read, those that the step writes included.
    """
    try:
        return setting.seconds(tokens, written)
    except InfeasibleError:
        return np.inf


def most(seconds: Callable[[int], float], limit: float) -> int:
    """Return the largest number whose time is within a limit, for times that grow; 0 where none is."""
    low, high = 0, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= limit else (low, middle)
    return low


def last_step() -> Section:
    """The last step of the Llama run: all in one tier, HBM first, and the least time."""
    run = RUNS[LLAMA.name].run(LLAMA)
    tokens = int(run.tokens[-1])
    figures = [Figure("spill-all, ms", None, 1e3 * float(run.plain_s[-1]))]
    for where in _WHERE:
        filled = 1e3 * filled_s(run.setting, tokens - 1, where)
        least = 1e3 * least_s(_memory(where), LLAMA.llm, tokens - 1)
        figures += [
            Figure(f"HBM first, weights {where}, ms", FILL_FIRST_MS[where], filled),
            Figure(f"no placement takes less, weights {where}, ms", None, least),
        ]
    text = (
        f"A step at {tokens:,} tokens. HBM first: HBM is filled, the rest is in the next tier, and both are "
        "read side by side. The least time splits the reads over all four tiers; it is proved in rational "
        "arithmetic and holds for every placement."
    )
    return Section((text,), tuple(figures))


def longer() -> Section:
    """The longest context of one user, and the most users, at the same time per step."""
    setting, llm = LLAMA.setting(), LLAMA.llm

    def contexts(limit: float) -> list[int]:
        found = [most(lambda n: spilled_s(setting, n), limit)]
        for where in _WHERE:
            memory = _memory(where)
            found.append(most(lambda n, at=where: filled_s(setting, n - 1, at), limit))  # type: ignore[misc]
            found.append(most(lambda n, of=memory: least_s(of, llm, n - 1), limit))  # type: ignore[misc]
        return found

    def users(limit: float) -> list[int]:
        found = [most(lambda n: spilled_s(setting, n * CONTEXT, n), limit)]
        for where in _WHERE:
            memory = _memory(where)
            found.append(most(lambda n, at=where: filled_s(setting, n * CONTEXT, at), limit))  # type: ignore[misc]
            found.append(most(lambda n, of=memory: least_s(of, llm, CONTEXT, n), limit))  # type: ignore[misc]
        return found

    tables = [
        _table(f"{what} at ms per step", {each: count(each / 1e3) for each in BUDGETS_MS})
        for what, count in (("context", contexts), (f"users of {CONTEXT:,} tokens", users))
    ]
    text = (
        "Llama-2-7B with KV in 16 bits. No placement exceeds `at most`: the time lower bound of one more "
        "token or user is above the time in the first column. Weights outside: they take up no room in HBM."
    )
    return Section((text,), tables=tuple(tables))


def _table(name: str, found: dict[float, list[int]]) -> Table:
    columns = [f"{what}, {where}" for where in _WHERE for what in ("HBM first", "at most")]
    rows = [(f"{limit:g}", *(f"{count:,}" for count in counts)) for limit, counts in found.items()]
    return Table((name, "spill-all", *columns), tuple(rows))
