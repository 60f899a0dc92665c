"""A literal replay of schedules, block by block: the rules of moves, births, ends and capacity."""

from __future__ import annotations

import numpy as np

from kvbound.instance import Instance
from kvbound.rules import Initial, Migration
from kvbound.schedule import Schedule


def problems(instance: Instance, schedule: Schedule) -> list[str]:
    """Return the rules that a schedule breaks."""
    timeline, blocks, last = instance.timeline, instance.grouping, instance.tiers - 1
    rooms, found, units = list(instance.capacity_units), list[str](), instance.units.tolist()
    now: list[dict[int, int]] = [{} for _ in range(instance.layers)]
    for layer, row in enumerate(schedule.initial):
        for block, tier in zip(blocks.of[: row.size].tolist(), row.tolist(), strict=True):
            if blocks.last[layer, block] >= 0 and now[layer].setdefault(block, tier) != tier:
                found.append("a block starts in two tiers")

    def check_room(where: str) -> None:
        for k, room in enumerate(rooms):
            whole = instance.inclusive and k == last
            counts = [sum(whole or tier == k for tier in tiers.values()) for tiers in now]
            held = sum(count * each for count, each in zip(counts, units, strict=True))
            if room is not None and held > room:
                found.append(f"{where}: {held} units in tier {k}, which holds {room}")

    check_room("start")
    if instance.rules.initial is Initial.PREFILL_FIRST:
        free = [sum(units) * instance.blocks if room is None else room for room in rooms]
        for block in range(blocks.prompt):
            for layer, tiers in enumerate(now):
                if block not in tiers:
                    continue
                fastest = next(k for k, left in enumerate(free) if left >= units[layer])
                free[fastest] -= units[layer]
                if tiers[block] != fastest:
                    found.append("start: not filled in order")
    for step, layer in np.ndindex(instance.decode_steps, instance.layers):
        where, tiers = f"slot ({step}, {layer})", now[layer]
        events, past = schedule.events[layer], int(timeline.past[step])
        at = events.step == step
        pairs = list(zip(events.token[at].tolist(), events.tier[at].tolist(), strict=True))
        moves = [(token, tier) for token, tier in pairs if token < past]
        births = [(token, tier) for token, tier in pairs if token >= past]
        reads = {int(blocks.of[token]) for token in instance.trace.reads(step, layer) if token < past}
        if [token for token, _ in births] != list(range(past, int(timeline.past[step + 1]))):
            found.append(f"{where}: births are missing")
        if pairs != moves + births or len({token for token, _ in pairs}) < len(pairs):
            found.append(f"{where}: events out of order, or twice")
        left = {block: tiers.pop(block) for block in list(tiers) if blocks.last[layer, block] == step}
        for token, tier in moves:
            block = int(blocks.of[token])
            if token != blocks.head[block] or block not in tiers:
                found.append(f"{where}: token {token} cannot move")
                continue
            up = tier < tiers[block]
            allowed = instance.rules.migration is Migration.PREFETCH or not up or block in reads
            if instance.rules.migration is Migration.NONE or not allowed:
                found.append(f"{where}: block {block} may not move to {tier}")
            tiers[block] = tier
        for token, tier in births:
            block = int(blocks.of[token])
            if block not in tiers and block not in left:
                (left if blocks.last[layer, block] == step else tiers)[block] = tier
            if (tiers | left)[block] != tier:
                found.append(f"{where}: token {token} is born beside its block")
        check_room(where)
    return found
