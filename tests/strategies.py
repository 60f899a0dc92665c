"""Random instances small enough for brute force, under any combination of rules."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from kvbound.blocks import Blocks
from kvbound.instance import Instance
from kvbound.llm.model import Llm
from kvbound.memory import Memory, Tier
from kvbound.rules import Copies, Initial, Migration, Overlap, Rules, Timing, Windows
from kvbound.schedule import LayerEvents, Schedule
from kvbound.trace import Trace, bits
from kvbound.trace.experts import from_lists
from kvbound.trace.timeline import FIELDS, Timeline

MOST_BLOCKS = {2: 8, 3: 5, 4: 4}
"""Blocks of all layers together, by the number of tiers."""


def rule_combinations() -> list[dict[str, Any]]:
    """Every combination of copies, migration, timing, initial, granularity 1-2 and 2-3 tiers: 96."""
    names = ("copies", "migration", "timing", "initial", "granularity", "tiers")
    values = product(Copies, Migration, Timing, Initial, (1, 2), (2, 3))
    return [dict(zip(names, combination, strict=True)) for combination in values]


def tiny_instance(
    rng: np.random.Generator,
    *,
    tiers: int | None = None,
    layers: int | None = None,
    batch: bool = False,
    **rules: Any,
) -> Instance:
    """Return a feasible instance whose joint states brute force can enumerate.

    Parameters
    ----------
    rng
        Decides everything that is not given.
    tiers, layers
        Number of tiers, 2 or 3 if not given, and of layers, 1 or 2 if not given.
    batch
        Whether other numbers of tokens than one may be born in a step, and tokens may end.
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
    layers = layers or int(rng.integers(1, 3))
    tokens = max(
        int(rng.integers(2, MOST_BLOCKS[tiers] // layers + 1)) * made.granularity - int(rng.integers(2)), 2
    )
    steps = int(rng.integers(1, min(tokens, 5)))
    if batch:
        trace = tiny_batch(rng, layers, tokens, steps)
    else:
        trace = tiny_trace(rng, layers, tokens - steps, steps)
    item = int(rng.integers(1, 6))
    weights = int(rng.integers(0, 4)) if rng.random() < 0.5 else 0
    llm = Llm("tiny", layers, item, weights, tuple(float(w) for w in rng.integers(0, 3 * item, layers)))
    blocks = layers * Blocks.make(trace.timeline, made.granularity).count
    memory = tiny_memory(rng, tiers, blocks, made.granularity * item, weights)
    return Instance("tiny", memory, llm, made, trace)


def with_overlap(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return the instance, or one in two times with the transfers of each step timed together."""
    overlap = Overlap.STEP if rng.random() < 0.5 else Overlap.SLOT
    return replace(instance, rules=replace(instance.rules, overlap=overlap))


def with_formats(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return the instance with items of other sizes in its tiers, and the same room for them."""
    sizes = tuple(rng.integers(1, 9, instance.tiers).tolist())
    by_layer = [tuple((instance.units * size).tolist()) for size in sizes]
    tiers = []
    for k, (tier, blocks) in enumerate(zip(instance.memory.tiers, instance.capacity_units, strict=True)):
        weights = 0 if k else int(instance.llm.weight_bytes)
        room = None if blocks is None else weights + blocks * instance.granularity * sizes[k]
        tiers.append(replace(tier, capacity=room))
    formats = dict(zip((tier.name for tier in tiers), by_layer, strict=True))
    return replace(instance, memory=replace(instance.memory, tiers=tuple(tiers)), formats=formats)


def with_layers(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return the instance with layers of different sizes, often some without KV, and often with windows.

    What layers without KV and tokens outside their windows would have been read for is left out, and the
    tiers have other room.
    """
    layers, trace, llm = instance.layers, instance.trace, instance.llm
    sizes, windows = sizes_and_windows(rng, layers, instance.tokens)
    step, timeline = np.arange(instance.decode_steps)[:, None], trace.timeline
    read = np.stack([bits.unpack(rows, trace.tokens).view(bool) for rows in trace.rows], axis=1)
    for layer, own in enumerate(timeline.by_layer(windows or (None,) * layers)):
        read[:, layer] &= (sizes[layer] > 0) & (step <= own.ends)
    fields = {name: getattr(timeline, name) for name in FIELDS}
    made = Trace.from_mask(read, trace.prefill_tokens, **fields)
    total = instance.granularity * instance.blocks * sum(sizes)
    tiers = []
    for k, tier in enumerate(instance.memory.tiers):
        room: float | None = int(rng.integers(0, max(total * 3 // 4, 1) + 1))
        if k == instance.tiers - 1:
            room = None if rng.random() < 0.7 else total
        weights = 0 if k else int(llm.weight_bytes)
        tiers.append(replace(tier, capacity=None if room is None else room + weights))
    return replace(
        instance,
        memory=replace(instance.memory, tiers=tuple(tiers)),
        llm=replace(llm, kv_bytes_per_token_layer=sizes, windows=windows),
        rules=replace(instance.rules, windows=Windows.ENDS if any(windows) else Windows.IGNORE),
        workload=made,
    )


def with_placeable_weights(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return the instance with weights of up to three blocks in each layer, in chunks, that may be placed.

    The tiers have more room, the last one for all of them.
    """
    llm, block = instance.llm, instance.granularity * max(instance.llm.kv_sizes)
    reads = rng.integers(0, 3 * block + 1, instance.layers)
    reads[rng.integers(instance.layers)] = rng.integers(block, 3 * block + 1)
    total = int(reads.sum())
    llm = replace(
        llm,
        weights="placeable",
        weight_read_bytes_per_layer=tuple(map(float, reads)),
        weight_chunk_bytes=None if rng.random() < 0.5 else int(rng.integers(1, 2 * block + 1)),
        weight_bytes=total + int(rng.integers(0, 3)),
    )
    tiers = []
    for k, tier in enumerate(instance.memory.tiers):
        room = int(rng.integers(0, total + 1)) if k < instance.tiers - 1 else total
        room += int(llm.weight_bytes - total) if k == 0 else 0
        tiers.append(tier if tier.capacity is None else replace(tier, capacity=tier.capacity + room))
    return replace(instance, llm=llm, memory=replace(instance.memory, tiers=tuple(tiers)), formats={})


def with_experts(rng: np.random.Generator, instance: Instance) -> Instance:
    """Return an instance with placeable weights, and up to two experts a layer that the trace names.

    Experts may be smaller than a block, and weights may hold more bytes than whole blocks. The tiers have
    more room, the last one for all experts.
    """
    llm, layers, steps = instance.llm, instance.layers, instance.decode_steps
    block = instance.granularity * max(llm.kv_sizes)
    counts = rng.integers(0, 3, layers)
    counts[rng.integers(layers)] = rng.integers(1, 3)
    sizes = np.where(counts > 0, rng.integers(max(block - 1, 1), 2 * block + 2, layers), 0)
    read = float(rng.choice([0, 0.5, 1, min(counts[counts > 0])]))
    held = int(counts @ sizes)
    added = np.where(counts > 0, np.ceil(read * sizes), 0)
    llm = replace(
        llm,
        experts=tuple(counts.tolist()),
        expert_bytes=tuple(sizes.tolist()),
        experts_read=read,
        weight_read_bytes_per_layer=tuple((llm.weight_reads + added).tolist()),
        weight_bytes=llm.weight_bytes + held,
    )
    chance = rng.uniform(0.2, 0.9)
    named = [[np.flatnonzero(rng.random(n) < chance).tolist() for n in counts] for _ in range(steps)]
    workload = replace(instance.token_trace, experts=from_lists(named, steps, layers, "trace"))
    tiers = []
    for k, tier in enumerate(instance.memory.tiers):
        room = int(rng.integers(0, held + 1)) if k < instance.tiers - 1 else held
        room += block * layers + held if k == 0 and rng.random() < 0.2 else 0
        tiers.append(tier if tier.capacity is None else replace(tier, capacity=tier.capacity + room))
    made = replace(instance, llm=llm, memory=replace(instance.memory, tiers=tuple(tiers)), workload=workload)
    more = made.resident_bytes - instance.resident_bytes  # what is left of weights needs room in tier 0
    first = replace(tiers[0], capacity=(tiers[0].capacity or 0) + max(more, 0))
    return replace(made, memory=replace(made.memory, tiers=(first, *tiers[1:])))


def sizes_and_windows(
    rng: np.random.Generator, layers: int, tokens: int
) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Draw bytes of a token's KV in each layer, sometimes none, and often windows."""
    sizes = rng.integers(0 if rng.random() < 0.3 else 1, 6, layers)
    sizes[rng.integers(layers)] = rng.integers(1, 6)
    windows: tuple[int | None, ...] = ()
    if rng.random() < 0.7:
        drawn = rng.integers(1, tokens + 1, layers).tolist()
        windows = tuple(None if rng.random() < 0.3 else window for window in drawn)
    return tuple(sizes.tolist()), windows


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


def tiny_timeline(rng: np.random.Generator, tokens: int, steps: int) -> Timeline:
    """Random births, among them steps with none or several, and often ends and several sequences."""
    prefill = int(rng.integers(0, tokens))
    births = np.bincount(rng.integers(0, steps, tokens - prefill), minlength=steps)
    kept = Timeline.of(prefill, steps, births=births)
    ends, sequence = None, None
    if rng.random() < 0.8:
        last = rng.integers(np.maximum(kept.born, 0), steps)
        ends = np.where(rng.random(tokens) < rng.random(), last, steps)
    if rng.random() < 0.5:
        sequence = rng.integers(0, 3, tokens)
        if ends is not None and rng.random() < 0.5:  # a sequence ends as a whole, after its last birth
            leaves = [ends[sequence == n].max(initial=0) for n in range(3)]
            ends = np.array(leaves)[sequence]
    outputs = rng.integers(0, births + 1)
    return Timeline.of(prefill, steps, births=births, ends=ends, sequence=sequence, outputs=outputs)


def tiny_batch(rng: np.random.Generator, layers: int, tokens: int, steps: int) -> Trace:
    """Random reads of tokens that exist."""
    timeline = tiny_timeline(rng, tokens, steps)
    step = np.arange(steps)[:, None, None]
    live = (timeline.born <= step) & (step <= timeline.ends)
    read = live & (rng.random((steps, layers, tokens)) < rng.uniform(0.1, 1.0))
    if rng.random() < 0.7:
        read &= timeline.born < step  # no own reads
    fields = {name: getattr(timeline, name) for name in FIELDS}
    return Trace.from_mask(read, timeline.prefill_tokens, **fields)


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


@st.composite
def layered_instances(draw: st.DrawFn, /, **rules: Any) -> Instance:
    """Draw a `tiny_instance` of two layers that differ; the same arguments."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return with_layers(rng, tiny_instance(rng, layers=2, batch=bool(rng.integers(2)), **rules))


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
    blocks, last = instance.grouping, instance.tiers - 1
    free = [np.inf if room is None else room for room in instance.capacity_units]
    tier: list[dict[int, int]] = [{} for _ in range(instance.layers)]
    units = instance.units.tolist()

    def enter(k: int, layer: int) -> int:
        free[k] -= units[layer] if k < last else 0
        return k

    def leave(k: int, layer: int) -> None:
        free[k] += units[layer] if k < last else 0

    def open_tiers(layer: int) -> list[int]:
        return [k for k in range(last + 1) if k == last or free[k] >= units[layer]]

    for block in range(blocks.prompt):
        for layer, now in enumerate(tier):
            if blocks.last[layer, block] >= 0:
                forced = instance.rules.initial is Initial.PREFILL_FIRST
                choice = open_tiers(layer)[0] if forced else int(rng.choice(open_tiers(layer)))
                now[block] = enter(choice, layer)
    prompt = blocks.of[: instance.prefill_tokens]
    initial = np.array([[now.get(b, last) for b in prompt.tolist()] for now in tier], np.uint8)
    events: list[list[tuple[int, int, int]]] = [[] for _ in tier]
    for step, layer in np.ndindex(instance.decode_steps, instance.layers):
        now, past = tier[layer], instance.timeline.past
        reads = instance.trace.reads(step, layer)
        read = set(blocks.of[reads[reads < past[step]]].tolist())
        gone = {block: now.pop(block) for block in list(now) if blocks.last[layer, block] == step}
        for k in gone.values():
            leave(k, layer)
        for block in rng.permutation(sorted(now)).tolist():
            target = int(rng.choice(open_tiers(layer)))
            up_allowed = instance.rules.migration is Migration.PREFETCH or block in read
            allowed = instance.rules.migration is not Migration.NONE and (target > now[block] or up_allowed)
            if target != now[block] and allowed and rng.random() < restless:
                leave(now[block], layer)
                now[block] = enter(target, layer)
                events[layer].append((step, int(blocks.head[block]), target))
        for token in range(past[step], past[step + 1]):
            block = int(blocks.of[token])
            if block not in now and block not in gone:
                if blocks.last[layer, block] == step:
                    gone[block] = int(rng.integers(last + 1))
                else:
                    now[block] = enter(int(rng.choice(open_tiers(layer))), layer)
            events[layer].append((step, token, (gone | now)[block]))
    made = (LayerEvents.of(*np.array(found, np.int64).reshape(-1, 3).T) for found in events)
    return Schedule(initial.reshape(instance.layers, -1), tuple(made))
