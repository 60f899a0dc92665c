"""Schedules under physical accounting: the tier of every token's KV over time, as events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kvbound.blocks import Blocks
from kvbound.errors import InputError
from kvbound.reading import open_npz
from kvbound.trace.bits import row_bytes
from kvbound.trace.timeline import Timeline
from kvbound.units import show

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kvbound.schedule/1"
WRONG_INSTANCE = "the hash of this instance; the schedule is another's"
"""What a file's instance_sha256 was expected to be."""


@dataclass(frozen=True, eq=False)
class LayerEvents:
    """The events of one layer, sorted by step; within a step the moves come before the birth.

    Attributes
    ----------
    step
        Decode step of each event, int32, shape (events,).
    token
        Token id, int32; a move of a block of tokens names the block's first.
    tier
        Tier from after the layer's slot of that step on, uint8.
    """

    step: NDArray[np.int32]
    token: NDArray[np.int32]
    tier: NDArray[np.uint8]

    def __repr__(self) -> str:
        """Return their number, in a line."""
        return f"<LayerEvents: {len(self.step):,}>"

    @classmethod
    def of(cls, step: object, token: object, tier: object) -> LayerEvents:
        """Convert array-likes to the types of the fields."""
        return cls(np.asarray(step, np.int32), np.asarray(token, np.int32), np.asarray(tier, np.uint8))


@dataclass(frozen=True, eq=False)
class Schedule:
    """The tier of every token in every layer over all slots, as events.

    Attributes
    ----------
    initial
        Tier of each prompt token's KV before the first slot, uint8, shape (layers, prefill).
    events
        One `LayerEvents` per layer; the birth of every token is an event of its step.
    """

    initial: NDArray[np.uint8]
    events: tuple[LayerEvents, ...]

    def __repr__(self) -> str:
        """Return the sizes, in a line."""
        events = sum(len(each.step) for each in self.events)
        return f"<Schedule: {self.layers} layers, {self.prefill_tokens:,} prompt tokens, {events:,} events>"

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.initial.shape[0]

    @property
    def prefill_tokens(self) -> int:
        """Number of prompt tokens."""
        return self.initial.shape[1]

    def births(self, layer: int) -> NDArray[np.bool_]:
        """Return which of a layer's events are births, shape (events,).

        The ids of born tokens ascend, so that a birth is the first event with an id beyond all before it.
        """
        token = self.events[layer].token
        before = np.concatenate([[self.prefill_tokens - 1], token[:-1]])
        return token > np.maximum.accumulate(before)

    def flat(self, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Return all events as (slot, item, tier), sorted by slot, in the form of the file."""
        slot = np.concatenate([e.step.astype(np.int64) * self.layers + n for n, e in enumerate(self.events)])
        item = np.concatenate([e.token.astype(np.int64) + n * tokens for n, e in enumerate(self.events)])
        tier = np.concatenate([e.tier for e in self.events])
        order = np.argsort(slot, kind="stable")
        return slot[order], item[order], tier[order]

    def to_schedule(self) -> Schedule:
        """Return it as events, which it is."""
        return self

    def tier0_rows(self, layer: int, timeline: Timeline) -> NDArray[np.uint8]:
        """Return which tokens are in tier 0 after each slot; see `kvbound.placement.PhysicalPlacement`."""
        events = self.events[layer]
        ends = np.searchsorted(events.step, np.arange(timeline.steps + 1))
        rows = np.zeros((timeline.steps, row_bytes(timeline.tokens)), np.uint8)
        inside = np.zeros(8 * rows.shape[1], np.bool_)
        inside[: self.prefill_tokens] = self.initial[layer] == 0
        for step, row in enumerate(rows):
            now = slice(ends[step], ends[step + 1])
            inside[events.token[now]] = events.tier[now] == 0
            inside[timeline.ending(step)] = False
            row[:] = np.packbits(inside, bitorder="little")
        return rows

    def arrays(self, *, instance_sha256: str, tokens: int) -> dict[str, Any]:
        """Return what schedule.npz holds."""
        slot, item, tier = self.flat(tokens)
        return {
            "schema": np.array(SCHEMA),
            "instance_sha256": np.array(instance_sha256),
            "initial": self.initial,
            "slot": slot,
            "item": item,
            "tier": tier,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the initial fill and every event, in order of time, one row each.

        Returns
        -------
        pandas.DataFrame
            ``step`` (-1 for the initial fill), ``layer``, ``token`` (the first of a block), ``tier`` from
            after that slot on, and ``event``: "start", "birth", "up", "down", or "stay" for a move to the
            tier that the item is in.
        """
        import pandas as pd

        frames = []
        for layer, (events, initial) in enumerate(zip(self.events, self.initial, strict=True)):
            prompt = np.arange(self.prefill_tokens)
            step = np.concatenate([np.full(self.prefill_tokens, -1), events.step])
            token = np.concatenate([prompt, events.token]).astype(np.int64)
            tier = np.concatenate([initial, events.tier]).astype(np.int64)
            order = np.lexsort((np.arange(len(step)), token))  # each token's events in a row
            before = np.empty_like(tier)
            before[order[1:]] = tier[order[:-1]]
            kinds = np.array(["up", "stay", "down"], "U5")[np.sign(tier - before) + 1]
            kinds[self.prefill_tokens :][self.births(layer)] = "birth"
            kinds[: self.prefill_tokens] = "start"
            columns = {"step": step, "layer": layer, "token": token, "tier": tier, "event": kinds}
            frames.append(pd.DataFrame(columns))
        whole = pd.concat(frames, ignore_index=True)
        return whole.sort_values(["step", "layer"], kind="stable", ignore_index=True)


def from_flat(
    initial: NDArray[np.uint8],
    slot: NDArray[np.int64],
    item: NDArray[np.int64],
    tier: NDArray[np.uint8],
    tokens: int,
) -> Schedule:
    """Build a schedule from the file's flat events; the inverse of `Schedule.flat`."""
    layers = len(initial)
    layer = slot % layers
    parts = []
    for n in range(layers):
        at = np.flatnonzero(layer == n)
        parts.append(LayerEvents.of(slot[at] // layers, item[at] - n * tokens, tier[at]))
    return Schedule(initial, tuple(parts))


def from_tiers(
    initial: NDArray[np.uint8], tiers: Sequence[NDArray[np.uint8]], blocks: Blocks | None = None
) -> Schedule:
    """Build a schedule from the tiers of all blocks after every slot.

    Parameters
    ----------
    initial
        Shape (layers, prefill).
    tiers
        Per layer, shape (steps, blocks): the tier after each slot. A block that ends in the step of its birth
        has the tier into which it is born there; other entries of blocks that do not exist are ignored.
    blocks
        The blocks of the instance; by default single tokens, one of them born in every step.
    """
    if blocks is None:
        timeline = Timeline.of(initial.shape[1], len(tiers[0]))
        blocks = Blocks.make(timeline, 1, (timeline,) * len(tiers))
    timeline = blocks.timeline
    token = np.arange(timeline.prefill_tokens, timeline.tokens)
    step, owner = timeline.born[token], blocks.of[token]
    parts = []
    for layer, after in enumerate(tiers):
        before = np.vstack([np.zeros_like(after[:1]), after[:-1]])
        before[0, : blocks.prompt] = initial[layer, blocks.head[: blocks.prompt]]
        # a token born in the last step of its block is born into the tier that the block leaves
        last = blocks.last[layer, owner]
        held = np.where(step < last, step, np.maximum(last - 1, blocks.born[owner]))
        born = np.where(held < 0, before[0, owner], after[held, owner])
        moved, block = np.nonzero(blocks.movable[layer] & (after != before))
        order = np.argsort(np.concatenate([moved, step]), kind="stable")  # births come last
        columns = ([moved, step], [blocks.head[block], token], [after[moved, block], born])
        parts.append(LayerEvents.of(*(np.concatenate(column)[order] for column in columns)))
    return Schedule(initial.astype(np.uint8), tuple(parts))


def read_schedule(
    path: Path | str, *, instance_sha256: str, layers: int, timeline: Timeline, tiers: int = 256
) -> Schedule:
    """Read schedule.npz; the checker determines whether it obeys the rules.

    Raises
    ------
    InputError
        The file holds no schedule, or one of another instance.
    """
    prefill, tokens, slots = timeline.prefill_tokens, timeline.tokens, timeline.steps * layers
    with open_npz(path, "a schedule file") as file:
        if (schema := file.text("schema")) != SCHEMA:
            raise InputError(path, "schema", f"{SCHEMA!r}, found {show(schema)}")
        if file.text("instance_sha256") != instance_sha256:
            raise InputError(path, "instance_sha256", WRONG_INSTANCE)
        initial = file.array("initial", np.uint8, layers, prefill)
        most = slots * tokens  # no item has two events in a slot
        slot, item = (file.array(name, np.int64, -1, most=most) for name in ("slot", "item"))
        tier = file.array("tier", np.uint8, -1, most=most)
    if not slot.size == item.size == tier.size:
        raise InputError(path, "slot", "one event per entry of slot, item and tier")
    if slot.size and (slot.min() < 0 or slot.max() >= slots or np.any(np.diff(slot) < 0)):
        raise InputError(path, "slot", f"ascending slots from 0 to {slots - 1}")
    (step, layer), (owner, token) = np.divmod(slot, layers), np.divmod(item, max(tokens, 1))
    if np.any(owner != layer) or np.any(token >= timeline.past[step + 1]):
        raise InputError(path, "item", "tokens of the slot's own layer, born by then")
    birth = timeline.born[token] == step
    expected = np.arange(prefill, tokens)
    if not all(np.array_equal(token[birth & (layer == n)], expected) for n in range(layers)):
        one = "one birth in every slot" if timeline.one_each else "the births of every slot, in order"
        raise InputError(path, "item", one)
    if np.any(initial >= tiers) or np.any(tier >= tiers):
        raise InputError(path, "tier", f"tiers from 0 to {tiers - 1}")
    return from_flat(initial, slot, item, tier, tokens)
