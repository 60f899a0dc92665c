"""A slow, literal simulator of the cache rules: one block and one victim at a time.

"Promote every missed read that their rule ranks above the lowest resident, in the reading slot; victims
come from the slot's own layer and go to the next slower tier with room; the pool is shared over layers;
ties: the lower id leaves first. A birth goes to the fastest tier with room after the policy's evictions."
A block is worth its best token; a new block competes with the missed reads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kvbound.instance import Initial, Instance, Migration
from kvbound.policies import make_policy
from kvbound.schedule import Schedule
from kvbound.simulation import run


@dataclass
class History:
    """The past of one layer: for every step so far the past tokens that it read, and their mass."""

    instance: Instance
    layer: int
    reads: list[list[int]] = field(default_factory=list)
    mass: list[dict[int, float]] = field(default_factory=list)

    @property
    def now(self) -> int:
        """The step in progress."""
        return len(self.reads) - 1

    def born(self, token: int) -> int | None:
        """Step of the token's birth; None for a prompt token."""
        step = token - self.instance.prefill_tokens
        return step if step >= 0 else None

    def recorded(self, step: int) -> list[int]:
        """Past tokens read in any step, later ones too."""
        ids = self.instance.trace.reads(step, self.layer).tolist()
        return [token for token in ids if token < self.instance.prefill_tokens + step]

    def advance(self) -> None:
        """Advance by one step."""
        step = len(self.reads)
        listed = self.instance.trace.listed(step, self.layer).tolist()
        mass = self.instance.trace.listed_mass(step, self.layer)
        given = [1.0] * len(listed) if mass is None else mass.astype(float).tolist()
        self.reads.append(self.recorded(step))
        self.mass.append(dict(zip(listed, given, strict=True)))


Rank = Callable[[History, int], float]
Fill = Callable[[Instance, int, int], tuple[float, ...]]


def recent(instance: Instance, layer: int, token: int) -> tuple[float, ...]:
    """The default fill: the most recent prompt tokens, the same share for each layer."""
    return (token, layer)


class Twin:
    """A slow simulator of one rule; `after` maps (step, layer) to the tiers after that slot."""

    def __init__(self, instance: Instance, rank: Rank, fill: Fill = recent) -> None:
        self.instance, self.rank = instance, rank
        self.size, self.tiers = instance.granularity, range(instance.tiers)
        self.tier: dict[tuple[int, int], int] = {}
        self.start(fill)
        self.initial = dict(self.tier)
        self.after: dict[tuple[int, int], dict[int, int]] = {}
        histories = [History(instance, layer) for layer in range(instance.layers)]
        for step in range(instance.decode_steps):
            for history in histories:
                history.advance()
                self.slot(history)
                tiers = {block: tier for (owner, block), tier in self.tier.items() if owner == history.layer}
                self.after[step, history.layer] = tiers

    def room(self, tier: int) -> float:
        """Blocks that still fit."""
        most = self.instance.capacity_blocks[tier]
        held = sum(at == tier for at in self.tier.values())
        return np.inf if most is None else most - held

    def fastest(self, tiers: range) -> int:
        return next(tier for tier in tiers if self.room(tier) > 0)

    def start(self, fill: Fill) -> None:
        """Place the prompt's blocks, the best first."""
        prompt, layers = self.instance.prefill_tokens, range(self.instance.layers)
        where = [(block, layer) for block in range(-(-prompt // self.size)) for layer in layers]
        forced = self.instance.rules.initial is Initial.PREFILL_FIRST

        def worth(place: tuple[int, int]) -> tuple[float, ...]:
            block, layer = place
            members = range(block * self.size, min((block + 1) * self.size, prompt))
            best = max(fill(self.instance, layer, token) for token in members)
            return (best[0], *(best[1:]), layer, block)

        for block, layer in where if forced else sorted(where, key=worth, reverse=True):
            idle = not forced and worth((block, layer))[0] == -np.inf
            self.tier[layer, block] = self.fastest(self.tiers[::-1] if idle else self.tiers)

    def slot(self, history: History) -> None:
        """Promote, demote, and place the new token."""
        layer, new = history.layer, self.instance.prefill_tokens + history.now
        last = new // self.size

        def worth(block: int) -> float:
            members = range(block * self.size, min((block + 1) * self.size, new + 1))
            return max(self.rank(history, token) for token in members)

        def held(tier: int) -> list[int]:
            """The layer's blocks there, the lowest first."""
            blocks = [block for (owner, block), at in self.tier.items() if (owner, at) == (layer, tier)]
            return sorted(blocks, key=lambda block: (worth(block), block))

        moves = self.instance.rules.migration is not Migration.NONE
        opens = new % self.size == 0
        victims: list[int] = []  # of the new block
        for tier in self.tiers[:-1] if moves else ():
            read = {token // self.size for token in history.reads[-1]}
            coming = {block for block in read if self.tier[layer, block] > tier}
            coming |= {last} if opens and tier == 0 else set()
            room, residents = self.room(tier), held(tier)
            up: list[int] = []
            out: list[int] = []
            for block in sorted(coming, key=lambda block: (worth(block), block), reverse=True):
                if room > len(up):
                    up.append(block)
                elif residents and worth(block) > worth(residents[0]):
                    up.append(block)
                    out.append(residents.pop(0))
                else:
                    break
            if opens and last in up:  # the birth comes after the moves, and so does its victim
                up.remove(last)
                victims = [out.pop()] if len(out) > max(0, len(up) - room) else []
            for block in up:
                self.tier[layer, block] = tier
            self.sink(layer, out, tier)
        if opens:
            self.sink(layer, victims, 0)
            self.tier[layer, last] = self.fastest(self.tiers)

    def sink(self, layer: int, blocks: list[int], tier: int) -> None:
        """Send blocks to the next slower tier with room."""
        for block in blocks:
            self.tier[layer, block] = self.fastest(self.tiers[tier + 1 :])


def replay(instance: Instance, schedule: Schedule) -> dict[tuple[int, int], dict[int, int]]:
    """Tier of every block after every slot, from a schedule's events."""
    after = {}
    for layer, events in enumerate(schedule.events):
        tier = {block: int(k) for block, k in enumerate(schedule.initial[layer, :: instance.granularity])}
        for step in range(instance.decode_steps):
            for n in np.flatnonzero(events.step == step):
                tier[int(events.token[n]) // instance.granularity] = int(events.tier[n])
            after[step, layer] = dict(tier)
    return after


def assert_same(instance: Instance, name: str, rank: Rank, fill: Fill = recent) -> None:
    """The policy and its twin put every block into the same tier after every slot."""
    schedule = run(instance, make_policy(name), np.random.default_rng(0))
    twin = Twin(instance, rank, fill)
    first = schedule.initial[:, :: instance.granularity]
    assert {(layer, block): int(k) for (layer, block), k in np.ndenumerate(first)} == twin.initial
    for slot, tiers in replay(instance, schedule).items():
        assert tiers == twin.after[slot], f"slot {slot}"
