"""Random instances small enough for brute force, under any combination of rules."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from kvbound.instance import Copies, Initial, Instance, Migration, Rules, Timing
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace import Trace

MOST_BLOCKS = {2: 8, 3: 5, 4: 4}
"""Blocks of all layers together, by the number of tiers."""


def rule_combinations() -> list[dict[str, Any]]:
    """Every combination of copies, migration, timing, initial, granularity 1-2 and 2-3 tiers: 96."""
    names = ("copies", "migration", "timing", "initial", "granularity", "tiers")
    values = product(Copies, Migration, Timing, Initial, (1, 2), (2, 3))
    return [dict(zip(names, combination, strict=True)) for combination in values]


def tiny_instance(rng: np.random.Generator, *, tiers: int | None = None, **rules: Any) -> Instance:
    """Return a feasible instance whose joint states brute force can enumerate.

    Parameters
    ----------
    rng
        Decides everything that is not given.
    tiers
        Number of tiers, 2 or 3 if not given.
    **rules
        Fields of `Rules`; what is missing is drawn.
    """
    tiers = tiers or int(rng.integers(2, 4))
    drawn: dict[str, Any] = {
        "copies": rng.choice(list(Copies)),
        "migration": rng.choice(list(Migration)),
        "timing": rng.choice(list(Timing)),
        "initial": rng.choice(list(Initial)),
        "granularity": int(rng.integers(1, 3)),
    }
    made = Rules(**(drawn | rules))
    layers = int(rng.integers(1, 3))
    tokens = max(
        int(rng.integers(2, MOST_BLOCKS[tiers] // layers + 1)) * made.granularity - int(rng.integers(2)), 2
    )
    steps = int(rng.integers(1, min(tokens, 5)))
    trace = tiny_trace(rng, layers, tokens - steps, steps)
    item = int(rng.integers(1, 6))
    weights = int(rng.integers(0, 4)) if rng.random() < 0.5 else 0
    llm = Llm("tiny", layers, item, weights, tuple(float(w) for w in rng.integers(0, 3 * item, layers)))
    blocks = layers * -(-tokens // made.granularity)
    memory = tiny_memory(rng, tiers, blocks, made.granularity * item, weights)
    return Instance("tiny", memory, llm, made, trace)


def with_free_writes(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return the instance with at least one tier, drawn by chance, that costs nothing to write."""
    tiers = instance.memory.tiers
    free = rng.random(len(tiers)) < 0.6
    free[rng.integers(len(tiers))] = True
    changed = tuple(replace(t, writes=()) if f else t for t, f in zip(tiers, free, strict=True))
    return replace(instance, memory=replace(instance.memory, tiers=changed))


def tiny_trace(rng: np.random.Generator, layers: int, prefill: int, steps: int) -> Trace:
    """Random reads: dense, sparse or repeating, own tokens among them sometimes."""
    density = rng.uniform(0.1, 1.0)
    own = rng.random() < 0.3
    weight = rng.random((layers, prefill + steps)) if rng.random() < 0.5 else None
    reads = []
    for step in range(steps):
        new = prefill + step
        luck = rng.random((layers, new + 1))
        chance = luck if weight is None else 0.6 * weight[:, : new + 1] + 0.4 * luck
        chosen = chance < density
        chosen[:, new] &= own
        reads.append([np.flatnonzero(row) for row in chosen])
    return Trace.from_lists(prefill, reads)


def tiny_memory(rng: np.random.Generator, tiers: int, blocks: int, block_bytes: int, weights: int) -> Memory:
    """Random tiers over shared resources; everything fits, the fast tiers usually do not hold it all."""
    rates = sorted((float(rate) for rate in rng.integers(1, 20, tiers)), reverse=True)
    resources = {f"bus{k}": rate for k, rate in enumerate(rates)}
    resources |= {"down": float(rng.integers(1, 20)), "up": float(rng.integers(1, 20))}
    made = []
    for k in range(tiers):
        reads, writes = [f"bus{k}"], [f"bus{k}"]
        if k and rng.random() < 0.7:
            reads.append("down")
            writes.append("up" if rng.random() < 0.7 else "down")
        if k and rng.random() < 0.2:
            reads.append("bus0")
        room = int(rng.integers(0, max(blocks * 3 // 4, 1) + 1)) * block_bytes + int(
            rng.integers(block_bytes)
        )
        capacity: float | None = room + (0 if k else weights)
        if k == tiers - 1:
            capacity = None if rng.random() < 0.7 else float(blocks * block_bytes)
        latency = float(rng.choice([0.0, 0.0, 0.25, 1.0]))
        made.append(Tier(f"tier{k}", capacity, tuple(reads), tuple(writes), latency))
    if rng.random() < 0.6:  # mostly none at all
        made = [Tier(t.name, t.capacity, t.reads, t.writes) for t in made]
    return Memory("tiny", resources, tuple(made))


@st.composite
def tiny_instances(draw: st.DrawFn, /, tiers: int | None = None, **rules: Any) -> Instance:
    """Draw a `tiny_instance`; the same arguments."""
    return tiny_instance(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), tiers=tiers, **rules)


def random_schedule(rng: np.random.Generator, instance: Instance, restless: float = 0.3) -> Schedule:
    """Return a legal schedule of random moves, for instances whose last tier holds everything.

    Parameters
    ----------
    rng
        Decides.
    instance
        Any small one.
    restless
        Chance that a block tries to move in a slot of its layer.
    """
    size, prefill, last = instance.granularity, instance.prefill_tokens, instance.tiers - 1
    free = [np.inf if room is None else room for room in instance.capacity_blocks]
    tier: list[list[int]] = [[] for _ in range(instance.layers)]

    def enter(k: int) -> int:
        free[k] -= 1 if k < last else 0
        return k

    def leave(k: int) -> None:
        free[k] += 1 if k < last else 0

    def open_tiers() -> list[int]:
        return [k for k in range(last + 1) if k == last or free[k] > 0]

    for _ in range(0, prefill, size):
        for now in tier:
            forced = instance.rules.initial is Initial.PREFILL_FIRST
            now.append(enter(open_tiers()[0] if forced else int(rng.choice(open_tiers()))))
    initial = np.array([np.repeat(now, size)[:prefill] for now in tier], np.uint8).reshape(-1, prefill)
    events: list[list[tuple[int, int, int]]] = [[] for _ in tier]
    for step, layer in np.ndindex(instance.decode_steps, instance.layers):
        now, new = tier[layer], prefill + step
        reads = instance.trace.reads(step, layer)
        for block in rng.permutation(len(now)):
            members = (reads // size == block) & (reads < new)
            target = int(rng.choice(open_tiers()))
            up_allowed = instance.rules.migration is Migration.PREFETCH or bool(members.any())
            allowed = instance.rules.migration is not Migration.NONE and (target > now[block] or up_allowed)
            if target != now[block] and allowed and rng.random() < restless:
                leave(now[block])
                now[block] = enter(target)
                events[layer].append((step, int(block) * size, target))
        if new % size == 0:
            now.append(enter(int(rng.choice(open_tiers()))))
        events[layer].append((step, new, now[new // size]))
    return Schedule(initial, tuple(LayerEvents.of(*zip(*found, strict=True)) for found in events))
