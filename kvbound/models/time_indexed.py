"""The placement problem as a mixed-integer program indexed by step, layer, block and tier.

One binary x[j, l, b, k] says that block b of layer l is in tier k after slot (j, l), or at the start for
j = -1; a block in none of these tiers is in the last one. This form covers every rule;
`kvbound.models.intervals` is stronger and smaller where it applies. Units are those of
`kvbound.models.coefficients`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance, Migration
from kvbound.models.coefficients import Coefficients, count_cuts
from kvbound.models.sparse import Builder, Ints, Matrix
from kvbound.schedule import LayerEvents, Schedule

NONE = -1


class TimeIndexed:
    """The program as sparse arrays.

    Parameters
    ----------
    instance
        Under physical accounting.
    cuts
        Add the count cuts; see `kvbound.models.coefficients.count_cuts`.
    """

    def __init__(self, instance: Instance, *, cuts: bool = True) -> None:
        self.instance, self.coefficients = instance, Coefficients.of(instance)
        self._build = Builder()
        self._tiers, self._fast = instance.tiers, instance.tiers - 1
        self._add_states()
        self._add_slots()
        self._add_capacity()
        for step in range(instance.decode_steps):
            for layer in range(instance.layers):
                self._add_traffic(step, layer)
                self._add_times(step, layer, cuts=cuts)
        self.matrix: Matrix = self._build.build()

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""
        return self.coefficients.unit_s

    def _add_states(self) -> None:
        """Columns x of every block, step from its birth on and tier but the last, shape (1 + steps, ...)."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        shape = (instance.decode_steps + 1, instance.layers, instance.blocks, self._fast)
        self.x = np.full(shape, NONE, np.int64)
        no_moves = instance.rules.migration is Migration.NONE
        for step in range(-1, instance.decode_steps):
            exists = coefficients.first == step if no_moves else coefficients.first <= step
            keys = np.argwhere(np.broadcast_to(exists[:, None], shape[1:]))
            if len(keys):
                fixed = np.zeros(len(keys)), np.ones(len(keys))
                if step < 0 and coefficients.prompt is not None:
                    held = coefficients.prompt[keys[:, 0], keys[:, 1]] == keys[:, 2]
                    fixed = held.astype(float), held.astype(float)
                named = np.column_stack([np.full(len(keys), step), keys])
                columns = build.add_columns("x", named, lower=fixed[0], upper=fixed[1], integer=True)
                self.x[step + 1, keys[:, 0], keys[:, 1], keys[:, 2]] = columns
            if no_moves and step >= 0:
                before = coefficients.first < step
                self.x[step + 1][:, before] = self.x[step][:, before]
        if self._fast > 1:
            keys = np.argwhere(self.x[..., 0] != NONE)
            keys = keys[np.unique(self.x[tuple(keys.T)][:, 0], return_index=True)[1]]
            rows = build.add_rows("one", keys - [1, 0, 0], upper=1.0)
            build.put(rows[:, None], self.x[tuple(keys.T)], 1.0)

    def _add_slots(self) -> None:
        """Columns of every slot: its time, and its traffic by tier: served, read besides, and written."""
        instance, build = self.instance, self._build
        slots = np.argwhere(np.ones((instance.decode_steps, instance.layers), bool))
        by_tier = np.column_stack([np.repeat(slots, self._tiers, 0), np.tile(range(self._tiers), len(slots))])
        shape = (instance.decode_steps, instance.layers)
        ideal = self.coefficients.ideal.ravel()
        self.time = build.add_columns("time", slots, lower=ideal, cost=1.0).reshape(shape)
        self.traffic = np.empty((*shape, 3, self._tiers), np.int64)
        for n, name in enumerate(("served", "extra", "written")):
            self.traffic[:, :, n] = build.add_columns(name, by_tier).reshape(*shape, self._tiers)
        if self.coefficients.latency.any():
            self.touched = build.add_columns("touched", by_tier, upper=1.0, integer=True)
            self.touched = self.touched.reshape(*shape, self._tiers)
            self.diverted = build.add_columns("diverted", by_tier).reshape(*shape, self._tiers)

    def _add_capacity(self) -> None:
        """A row for the start and for every slot, for each tier that may then be overfull."""
        instance, build = self.instance, self._build
        limited = self.coefficients.transitions.limited
        for slot in range(-1, instance.slots):
            step, layer = divmod(slot, instance.layers)
            now = np.where(np.arange(instance.layers) <= layer, step + 1, step) if slot >= 0 else 0
            held = self.x[now, np.arange(instance.layers)]  # (layers, blocks, fast)
            born = int(np.count_nonzero(held[:, :, 0] != NONE))
            for tier in limited:
                capacity = instance.capacity_blocks[tier]
                if capacity is None or born <= capacity:
                    continue
                if tier < self._fast:
                    row = build.add_rows("room", [[slot, tier]], upper=capacity)
                    columns = held[:, :, tier]
                else:  # the last tier holds the blocks that are in no other
                    row = build.add_rows("rest", [[slot]], lower=born - capacity)
                    columns = held
                build.put(row, columns[columns != NONE], 1.0)

    def _add_traffic(self, step: int, layer: int) -> None:
        """Rows that define the traffic of a slot."""
        coefficients, build = self.coefficients, self._build
        constant = np.zeros((3, self._tiers))
        constant[1, 0] = coefficients.weights[layer]
        rows = np.empty((3, self._tiers), np.int64)
        reads, born = coefficients.reads[step, layer], coefficients.born[step]
        read = np.flatnonzero(reads)
        constant[0, -1] += coefficients.read_counts[step, layer]
        constant[2] += coefficients.transitions.birth_writes[-1]  # of a birth into the last tier
        for n, name in enumerate(("sum_served", "sum_extra", "sum_written")):
            keys = [[step, layer, k] for k in range(self._tiers)]
            rows[n] = build.add_rows(name, keys, lower=constant[n], upper=constant[n])
            build.put(rows[n], self.traffic[step, layer, n], 1.0)
        before = self.x[step, layer, read]
        build.put(rows[0, : self._fast], before, -reads[read, None])
        build.put(rows[0, -1], before, reads[read, None])
        self._put_birth(step, layer, rows[2])
        for block in np.flatnonzero(born):
            self._add_moves(step, layer, int(block), rows)

    def _put_birth(self, step: int, layer: int, written: Ints) -> None:
        """What the birth of a slot writes more, or less, if it is not into the last tier."""
        token = self.instance.prefill_tokens + step
        columns = self.x[step + 1, layer, token // self.instance.granularity]
        writes = self.coefficients.transitions.birth_writes
        self._build.put(written, columns[:, None], writes[-1] - writes[:-1])

    def _add_moves(self, step: int, layer: int, block: int, rows: Ints) -> None:
        """Columns for the moves of a block in a slot, and rows for their effects."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        moves = coefficients.legal_moves(step, layer, block)
        if instance.rules.migration is Migration.NONE:
            return
        before, after = self.x[step, layer, block], self.x[step + 1, layer, block]
        key = [step, layer, block]
        flows = build.add_columns("move", [[*key, a, k] for a, k in moves], upper=1.0)
        keep = build.add_rows("keep", [[*key, k] for k in range(self._fast)], lower=0.0, upper=0.0)
        build.put(keep, after, 1.0)
        build.put(keep, before, -1.0)
        leave = build.add_rows("leave", [[*key, k] for k in range(self._fast)], upper=0.0)
        build.put(leave, before, -1.0)
        born = coefficients.born[step, block]
        unread = born - coefficients.reads[step, layer, block]
        for flow, (a, k) in zip(flows, moves, strict=True):
            if k < self._fast:
                build.put(keep[k], flow, -1.0)
            if a < self._fast:
                build.put(keep[a], flow, 1.0)
                build.put(leave[a], flow, 1.0)
            if not coefficients.transitions.charged[a, k]:
                continue
            build.put(rows[1, a], flow, -unread)
            build.put(rows[2, k], flow, -born)
        if self._fast > 1 or not instance.inclusive:
            last = build.add_rows("leave", [[*key, self._fast]], upper=1.0)
            build.put(last, before, 1.0)
            build.put(last, [f for f, (a, _) in zip(flows, moves, strict=True) if a == self._fast], 1.0)

    def _add_times(self, step: int, layer: int, *, cuts: bool) -> None:
        """Rows that bound the time of a slot from below by each facet, and by the count cuts."""
        coefficients, build = self.coefficients, self._build
        here, time = self.traffic[step, layer].ravel(), self.time[step, layer]
        rows = build.add_rows("facet", [[step, layer, v] for v in range(len(coefficients.facets))], lower=0.0)
        build.put(rows, time, 1.0)
        build.put(rows[:, None], here, -coefficients.facets)
        if coefficients.latency.any():
            self._add_latency(step, layer, rows)
        elif cuts and self._tiers == 2:
            for n, (slope, constant) in enumerate(count_cuts(coefficients, step, layer)):
                row = build.add_rows("cut", [[step, layer, n]], lower=constant)
                build.put(row, [time, self.traffic[step, layer, 0, 1]], [1.0, -slope])

    def _add_latency(self, step: int, layer: int, rows: Ints) -> None:
        """Rows for latencies: tiers with traffic are touched; the last tier may serve the reads of others."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        most = 2 * float(coefficients.born[step].sum()) + coefficients.weights[layer] + 2
        touched, diverted = self.touched[step, layer], self.diverted[step, layer]
        served = self.traffic[step, layer, 0]
        build.put(rows[:, None], touched, -coefficients.latency)
        build.put(rows[:, None], diverted[: self._fast], coefficients.facets[:, : self._fast])
        total = diverted[: self._fast]
        build.put(rows[:, None], total, -coefficients.facets[:, [self._fast]])
        touch = build.add_rows("touch", [[step, layer, k] for k in range(self._tiers)], upper=0.0)
        build.put(touch, self.traffic[step, layer].reshape(3, self._tiers), 1.0)
        build.put(touch, touched, -most)
        build.put(touch[: self._fast], total, -1.0)
        build.put(touch[-1], total, 1.0)
        divert = build.add_rows("divert", [[step, layer, k] for k in range(self._tiers)], upper=0.0)
        build.put(divert, diverted, 1.0)
        if instance.inclusive:
            build.put(divert[: self._fast], served[: self._fast], -1.0)

    def schedule(self, values: NDArray[np.float64]) -> Schedule:
        """Return the schedule of an integer solution, shape (columns,)."""
        instance = self.instance
        held = np.where(self.x == NONE, 0.0, values[self.x]) > 0.5
        tier = np.where(held.any(axis=3), held.argmax(axis=3), self._fast).astype(np.uint8)
        initial = tier[0][:, np.arange(instance.prefill_tokens) // instance.granularity]
        return Schedule(initial, tuple(self._events(tier[:, layer]) for layer in range(instance.layers)))

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the columns x, and their values for a schedule."""
        size = self.instance.granularity
        tier = np.full(self.x.shape[:3], self._fast, np.uint8)
        tier[:, :, : self.coefficients.prompt_blocks] = schedule.initial[:, ::size]
        for layer, events in enumerate(schedule.events):
            opens = events.token % size == 0  # the birth of a later token moves no block
            for n in np.flatnonzero(opens):
                tier[events.step[n] + 1 :, layer, events.token[n] // size] = events.tier[n]
        held = tier[..., None] == np.arange(self._fast)
        known = self.x != NONE
        columns, first = np.unique(self.x[known], return_index=True)
        return columns.astype(np.int32), held[known][first].astype(np.float64)

    def _events(self, tier: NDArray[np.uint8]) -> LayerEvents:
        """Events of one layer from the tiers of its blocks, shape (1 + steps, blocks)."""
        size, prefill = self.instance.granularity, self.instance.prefill_tokens
        step = np.arange(self.instance.decode_steps)
        moved = (tier[1:] != tier[:-1]) & (self.coefficients.first < step[:, None])
        at, block = np.nonzero(moved)
        birth = tier[step + 1, (prefill + step) // size]
        steps = np.concatenate([at, step])
        order = np.argsort(steps, kind="stable")
        tokens = np.concatenate([block * size, prefill + step])
        return LayerEvents.of(
            steps[order], tokens[order], np.concatenate([tier[at + 1, block], birth])[order]
        )
