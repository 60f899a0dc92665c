"""A slow, literal simulator of the cache rules: one block and one victim at a time.

"Promote every missed read that their rule ranks above the lowest resident, in the reading slot; victims
come from the slot's own layer and go to the next slower tier with room; the pool is shared over layers;
ties: the lower id leaves first. A birth goes to the fastest tier with room after the policy's evictions."
A block is worth its best token that exists after the slot; new blocks compete with the missed reads. What
ends leaves before anything moves. A block that ends in the step of its birth is never held.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kvbound.instance import Instance
from kvbound.policies import make_policy
from kvbound.rules import Initial, Migration
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
        step = int(self.instance.timeline.born[token])
        return step if step >= 0 else None

    def recorded(self, step: int) -> list[int]:
        """Past tokens read in any step, later ones too."""
        ids = self.instance.trace.reads(step, self.layer).tolist()
        return [token for token in ids if self.instance.timeline.born[token] < step]

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


def age(instance: Instance, token: int, tokens: int) -> int:
    """Later tokens of the token's sequence among so many tokens."""
    labels = instance.timeline.sequence[:tokens].tolist()
    return labels[token + 1 :].count(labels[token])


def recent(instance: Instance, layer: int, token: int) -> tuple[float, ...]:
    """The default fill: the most recent prompt tokens of each sequence, the same share for each layer."""
    return (-age(instance, token, instance.prefill_tokens), layer)


class Twin:
    """A slow simulator of one rule; `after` maps (step, layer) to the tiers after that slot."""

    def __init__(self, instance: Instance, rank: Rank, fill: Fill = recent) -> None:
        self.instance, self.rank = instance, rank
        self.tiers = range(instance.tiers)
        self.members = list(members_of(instance).values())
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

    def room(self, tier: int, layer: int) -> float:
        """Blocks of a layer that still fit."""
        most, units = self.instance.capacity_units[tier], self.instance.units.tolist()
        held = sum(units[owner] for (owner, _), at in self.tier.items() if at == tier)
        return np.inf if most is None or not units[layer] else (most - held) // units[layer]

    def fastest(self, tiers: range, layer: int) -> int:
        return next(tier for tier in tiers if self.room(tier, layer) > 0)

    def start(self, fill: Fill) -> None:
        """Place the prompt's blocks, the best first."""
        prompt, layers = self.instance.prefill_tokens, range(self.instance.layers)
        where = [
            (n, layer)
            for n, block in enumerate(self.members)
            for layer in layers
            if block[0] < prompt and max(self.instance.timelines[layer].ends[block]) >= 0
        ]
        forced = self.instance.rules.initial is Initial.PREFILL_FIRST

        def worth(place: tuple[int, int]) -> tuple[float, ...]:
            block, layer = place
            best = max(fill(self.instance, layer, token) for token in self.members[block] if token < prompt)
            return (best[0], *(best[1:]), layer, block)

        for block, layer in where if forced else sorted(where, key=worth, reverse=True):
            idle = not forced and worth((block, layer))[0] == -np.inf
            self.tier[layer, block] = self.fastest(self.tiers[::-1] if idle else self.tiers, layer)

    def slot(self, history: History) -> None:
        """Let blocks end, promote and demote others, and place new ones."""
        layer, now = history.layer, history.now
        timeline = self.instance.timelines[layer]
        born, ends = timeline.born.tolist(), timeline.ends.tolist()

        def worth(block: int) -> float:
            there = [token for token in self.members[block] if born[token] <= now < ends[token]]
            return max((self.rank(history, token) for token in there), default=-np.inf)

        def order(block: int) -> tuple[float, int]:
            return worth(block), block

        def held(tier: int) -> list[int]:
            """The layer's blocks there, the lowest first."""
            blocks = [block for (owner, block), at in self.tier.items() if (owner, at) == (layer, tier)]
            return sorted(blocks, key=order)

        new: set[int] = set()
        for block, tokens in enumerate(self.members):
            last = max(ends[token] for token in tokens)
            if last == now:
                self.tier.pop((layer, block), None)
            elif born[tokens[0]] == now:
                new.add(block)
        moves = self.instance.rules.migration is not Migration.NONE
        victims: list[int] = []  # of the new blocks
        first: list[int] = []  # new blocks that are worth a place in tier 0
        for tier in self.tiers[:-1] if moves else ():
            read = {block for block, tokens in enumerate(self.members) if {*tokens} & {*history.reads[-1]}}
            coming = {block for block in read if self.tier.get((layer, block), -1) > tier}
            coming |= new if tier == 0 else set()
            room, residents = self.room(tier, layer), held(tier)
            up: list[int] = []
            out: list[int] = []
            for block in sorted(coming, key=order, reverse=True):
                if room > len(up):
                    up.append(block)
                elif residents and worth(block) > worth(residents[0]):
                    up.append(block)
                    out.append(residents.pop(0))
                else:
                    break
            if tier == 0:  # births come after the moves, and so do their victims
                first = [block for block in up if block in new]
                up = [block for block in up if block not in new]
                needed = int(max(0, len(up) - room))
                out, victims = out[:needed], out[needed:]
            for block in up:
                self.tier[layer, block] = tier
            self.sink(layer, out, tier)
        self.sink(layer, victims, 0)
        for block in [*first, *sorted(new - {*first}, key=order, reverse=True)]:
            self.tier[layer, block] = self.fastest(self.tiers, layer)

    def sink(self, layer: int, blocks: list[int], tier: int) -> None:
        """Send blocks to the next slower tier with room."""
        for block in blocks:
            self.tier[layer, block] = self.fastest(self.tiers[tier + 1 :], layer)


def members_of(instance: Instance, size: int | None = None) -> dict[tuple[int, int], list[int]]:
    """Tokens of every block, named by its sequence and its number there, in the order of the first tokens.

    Blocks have `size` tokens, by default as many as the rules say.
    """
    size = size or instance.granularity
    found: dict[tuple[int, int], list[int]] = {}
    seen: dict[int, int] = {}
    for token, sequence in enumerate(instance.timeline.sequence.tolist()):
        position = seen[sequence] = seen.get(sequence, -1) + 1
        found.setdefault((sequence, position // size), []).append(token)
    return found


def replay(instance: Instance, schedule: Schedule) -> dict[tuple[int, int], dict[int, int]]:
    """Tier of every block that exists after every slot, from a schedule's events."""
    after = {}
    blocks = list(members_of(instance).values())
    of = {token: block for block, tokens in enumerate(blocks) for token in tokens}
    for layer, events in enumerate(schedule.events):
        last = [max(instance.timelines[layer].ends[tokens]) for tokens in blocks]
        tier = {of[token]: int(k) for token, k in enumerate(schedule.initial[layer])}
        for step in range(instance.decode_steps):
            for n in np.flatnonzero(events.step == step):
                tier[of[int(events.token[n])]] = int(events.tier[n])
            tier = {block: k for block, k in tier.items() if last[block] > step}
            after[step, layer] = dict(tier)
    return after


def assert_same(instance: Instance, name: str, rank: Rank, fill: Fill = recent) -> None:
    """The policy and its twin put every block into the same tier after every slot."""
    schedule = run(instance, make_policy(name), np.random.default_rng(0))
    twin = Twin(instance, rank, fill)
    blocks = [tokens for tokens in members_of(instance).values() if tokens[0] < instance.prefill_tokens]
    first = {
        (layer, block): int(row[tokens[0]])
        for layer, row in enumerate(schedule.initial)
        for block, tokens in enumerate(blocks)
        if max(instance.timelines[layer].ends[tokens]) >= 0
    }
    assert first == twin.initial
    for slot, tiers in replay(instance, schedule).items():
        assert tiers == twin.after[slot], f"slot {slot}"
