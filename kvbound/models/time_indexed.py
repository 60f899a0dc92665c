"""The placement problem as a mixed-integer program indexed by step, layer, block and tier.

One binary x[j, l, b, k] says that block b of layer l is in tier k after slot (j, l), or at the start for
j = -1; a block in none of these tiers is in the last one. A block that ends in the step of its birth has
columns for this step alone, which say to which tier it is written and take up no room. This form covers every
rule; `kvbound.models.intervals` is stronger and smaller where it applies. Units are those of
`kvbound.models.coefficients`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvbound.instance import Instance
from kvbound.models.coefficients import Coefficients, slot_read_cuts, slot_write_cuts
from kvbound.models.sparse import Builder, Floats, Ints, Matrix
from kvbound.rules import Migration
from kvbound.schedule import Schedule, from_tiers

NONE = -1


class TimeIndexed:
    """The program as sparse arrays.

    Parameters
    ----------
    instance
        Under physical accounting.
    cuts
        Add the count cuts; see `kvbound.models.coefficients.slot_cuts`.

    Attributes
    ----------
    x, time, traffic
        Columns: states (1 + steps, layers, blocks, tiers but the last), NONE where there is none; slot times
        (steps, layers); traffic served, extra and written (steps, layers, 3, tiers). Where the transfers of a
        step overlap, all but the states have one entry in place of those of the layers; so have the rows.
    touched
        Columns of tiers that serve reads, (steps, layers, tiers), if some tier has a latency.
    sums, facets
        Rows that define the traffic, (steps, layers, 3, tiers), and of the facets, (steps, layers, V).
    room
        Rows of capacities at the start and after every slot, (tiers, 1 + slots), NONE where there is none.
    cuts
        Row, step and layer of every count cut, and whether it counts writes.
    """

    def __init__(self, instance: Instance, *, cuts: bool = True) -> None:
        self.instance, self.coefficients = instance, Coefficients.of(instance)
        self._build = Builder()
        self._flows = [(np.zeros((0, 3), np.int64), np.zeros(0, np.int64))]
        self._tiers, self._fast = instance.tiers, instance.tiers - 1
        slots = self.coefficients.ideal.shape
        self.sums = np.empty((*slots, 3, self._tiers), np.int64)
        self.room = np.full((self._tiers, 1 + instance.slots), NONE)
        self.facets = np.empty((*slots, len(self.coefficients.facets)), np.int64)
        self.cuts: list[tuple[int, int, int, bool]] = []
        self._add_states()
        self._add_slots()
        self._add_capacity()
        for step, period in np.ndindex(*slots):
            self._add_traffic(step, period)
            self._add_times(step, period, cuts=cuts)
        self.matrix: Matrix = self._build.build()
        self._flow_keys, self._flow_columns = map(np.concatenate, zip(*self._flows, strict=True))

    @property
    def unit_s(self) -> float:
        """Seconds per unit of the objective."""
        return self.coefficients.unit_s

    def with_states(self, columns: Ints, values: Floats) -> Matrix:
        """Return the program with some of the columns x fixed, and moves between equal fixed states at 0."""
        lower, upper = (np.append(each, 0.0) for each in (self.matrix.lower, self.matrix.upper))
        lower[columns] = upper[columns] = values
        fixed, value = (lower == upper)[self.x].all(axis=-1), lower[self.x]
        step, layer, block = self._flow_keys.T
        before, after = (step, layer, block), (step + 1, layer, block)
        idle = fixed[before] & fixed[after] & (value[before] == value[after]).all(axis=-1)
        flows = self._flow_columns[idle]
        everything = np.concatenate([values, np.zeros(len(flows))])
        return self.matrix.with_fixed(np.concatenate([columns, flows]), everything)

    def _add_states(self) -> None:
        """Columns x of every block, step after which it is in a tier, and tier but the last."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        shape = (instance.decode_steps + 1, instance.layers, instance.blocks, self._fast)
        self.x = np.full(shape, NONE, np.int64)
        no_moves = instance.rules.migration is Migration.NONE
        for step, placed in enumerate(coefficients.placed, -1):
            shared = placed & (coefficients.grouping.born < step) & no_moves
            keys = np.argwhere(np.broadcast_to((placed & ~shared)[..., None], shape[1:]))
            if len(keys):
                fixed = np.zeros(len(keys)), np.ones(len(keys))
                if step < 0 and coefficients.prompt is not None:
                    held = coefficients.prompt[keys[:, 0], keys[:, 1]] == keys[:, 2]
                    fixed = held.astype(float), held.astype(float)
                named = np.column_stack([np.full(len(keys), step), keys])
                columns = build.add_columns("x", named, lower=fixed[0], upper=fixed[1], integer=True)
                self.x[step + 1, keys[:, 0], keys[:, 1], keys[:, 2]] = columns
            self.x[step + 1][shared] = self.x[step][shared]
        if self._fast > 1:
            keys = np.argwhere(self.x[..., 0] != NONE)
            keys = keys[np.unique(self.x[tuple(keys.T)][:, 0], return_index=True)[1]]
            rows = build.add_rows("one", keys - [1, 0, 0], upper=1.0)
            build.put(rows[:, None], self.x[tuple(keys.T)], 1.0)

    def _add_slots(self) -> None:
        """Columns of every slot: its time, and its traffic by tier: served, read besides, and written."""
        build, shape = self._build, self.coefficients.ideal.shape
        slots = np.argwhere(np.ones(shape, bool))
        by_tier = np.column_stack([np.repeat(slots, self._tiers, 0), np.tile(range(self._tiers), len(slots))])
        ideal = self.coefficients.ideal.ravel()
        self.time = build.add_columns("time", slots, lower=ideal, cost=1.0).reshape(shape)
        self.traffic = np.empty((*shape, 3, self._tiers), np.int64)
        for n, name in enumerate(("served", "extra", "written")):
            self.traffic[:, :, n] = build.add_columns(name, by_tier).reshape(*shape, self._tiers)
        if self.coefficients.has_waits:
            self.touched = build.add_columns("touched", by_tier, upper=1.0, integer=True)
            self.touched = self.touched.reshape(*shape, self._tiers)
            self.diverted = build.add_columns("diverted", by_tier).reshape(*shape, self._tiers)

    def _add_capacity(self) -> None:
        """A row for the start and for every slot, for each tier that may then be overfull."""
        instance, build = self.instance, self._build
        limited = self.coefficients.transitions.limited
        for slot in range(-1, instance.slots):
            step, layer = divmod(slot, instance.layers)
            now = np.where(np.arange(instance.layers) <= layer, step + 1, max(step, 0))
            layers = np.arange(instance.layers)
            held = self.coefficients.held[now, layers]  # (layers, blocks)
            columns = self.x[now, layers][held]
            units = instance.block_units[held]
            for tier in limited:
                capacity, total = instance.capacity_units[tier], int(units.sum())
                if capacity is None or total <= capacity:
                    continue
                if tier < self._fast:
                    row = build.add_rows("room", [[slot, tier]], upper=capacity)
                    self.room[tier, 1 + slot] = row[0]
                    build.put(row, columns[:, tier], units)
                else:  # the last tier holds the blocks that are in no other
                    row = build.add_rows("rest", [[slot]], lower=total - capacity)
                    self.room[tier, 1 + slot] = row[0]
                    build.put(row, columns, units[:, None])

    def _add_traffic(self, step: int, period: int) -> None:
        """Rows that define the traffic of a slot."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        constant, rows = np.zeros((3, self._tiers)), self.sums[step, period]
        for layer in coefficients.layers_of(period):
            size = coefficients.sizes[layer]
            constant[0, -1] += coefficients.read_counts[step, layer] * size
            constant[1, 0] += coefficients.weights[layer]
            # of births into the last tier
            constant[2] += instance.timeline.births[step] * size * coefficients.transitions.birth_writes[-1]
        for n, name in enumerate(("sum_served", "sum_extra", "sum_written")):
            keys = [[step, period, k] for k in range(self._tiers)]
            rows[n] = build.add_rows(name, keys, lower=constant[n], upper=constant[n])
            build.put(rows[n], self.traffic[step, period, n], 1.0)
        for layer in coefficients.layers_of(period):
            self._put_traffic(step, layer, rows)

    def _put_traffic(self, step: int, layer: int, rows: Ints) -> None:
        """What a layer's blocks add to the traffic."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        reads, size = coefficients.reads[step, layer], coefficients.sizes[layer]
        read = np.flatnonzero(reads)
        before = self.x[step, layer, read]
        build.put(rows[0, : self._fast], before, -reads[read, None] * size)
        build.put(rows[0, -1], before, reads[read, None] * size)
        self._put_births(step, layer, rows[2])
        if instance.rules.migration is not Migration.NONE:
            self._add_moves(step, layer, np.flatnonzero(coefficients.grouping.movable[layer, step]), rows)

    def _put_births(self, step: int, layer: int, written: Ints) -> None:
        """What the births of a slot write more, or less, if they are not into the last tier."""
        coefficients = self.coefficients
        grown, writes = coefficients.grouping.grown[step], coefficients.transitions.birth_writes
        block = np.flatnonzero(grown)
        columns = self.x[coefficients.joined[step, layer, block] + 1, layer, block]  # (blocks, fast)
        more = grown[block, None, None] * (writes[-1] - writes[:-1]) * coefficients.sizes[layer]
        self._build.put(written, columns[..., None], more)

    def _add_moves(self, step: int, layer: int, blocks: Ints, rows: Ints) -> None:
        """Columns for the moves of blocks in a slot, and rows for their effects."""
        coefficients, build, fast = self.coefficients, self._build, self._fast
        before, after = self.x[step, layer, blocks], self.x[step + 1, layer, blocks]  # (blocks, fast)
        legal = coefficients.transitions.legal[(coefficients.reads[step, layer, blocks] > 0).astype(int)]
        n, a, k = np.nonzero(legal)  # block, source and target of every move

        def add_rows(name: str, tiers: Ints, **bounds: float) -> Ints:
            block, tier = (each.ravel() for each in np.meshgrid(blocks, tiers, indexing="ij"))
            keys = np.column_stack([np.full_like(block, step), np.full_like(block, layer), block, tier])
            return build.add_rows(name, keys, **bounds).reshape(len(blocks), len(tiers))

        keys = np.column_stack([np.full_like(n, step), np.full_like(n, layer), blocks[n], a, k])
        flow = build.add_columns("move", keys, upper=1.0)
        self._flows.append((keys[:, :3], flow))
        keep = add_rows("keep", np.arange(fast), lower=0.0, upper=0.0)
        build.put(keep, after, 1.0)
        build.put(keep, before, -1.0)
        leave = add_rows("leave", np.arange(fast), upper=0.0)
        build.put(leave, before, -1.0)
        up, down = k < fast, a < fast
        build.put(keep[n[up], k[up]], flow[up], -1.0)
        build.put(keep[n[down], a[down]], flow[down], 1.0)
        build.put(leave[n[down], a[down]], flow[down], 1.0)
        if fast > 1 or not self.instance.inclusive:
            last = add_rows("leave", np.array([fast]), upper=1.0)
            build.put(last, before, 1.0)
            build.put(last[n[~down], 0], flow[~down], 1.0)
        paid, size = coefficients.transitions.charged[a, k], coefficients.sizes[layer]
        n, a, k, flow = n[paid], a[paid], k[paid], flow[paid]
        build.put(rows[1, a], flow, -coefficients.unread[step, layer, blocks[n]] * size)
        build.put(rows[2, k], flow, -coefficients.carried[layer, step, blocks[n]] * size)

    def _add_times(self, step: int, layer: int, *, cuts: bool) -> None:
        """Rows that bound the time of a slot from below by each facet, and by the count cuts."""
        coefficients, build = self.coefficients, self._build
        here, time = self.traffic[step, layer].ravel(), self.time[step, layer]
        rows = build.add_rows("facet", [[step, layer, v] for v in range(len(coefficients.facets))], lower=0.0)
        self.facets[step, layer] = rows
        build.put(rows, time, 1.0)
        build.put(rows[:, None], here, -coefficients.facets)
        if coefficients.has_waits:
            self._add_latency(step, layer, rows)
        elif cuts and self._tiers == 2:
            of_reads = slot_read_cuts(coefficients, step, layer)
            found = of_reads + slot_write_cuts(coefficients, step, layer)
            for n, (slope, constant) in enumerate(found):
                row = build.add_rows("cut", [[step, layer, n]], lower=constant)
                self.cuts.append((int(row[0]), step, layer, n >= len(of_reads)))
                build.put(row, time, 1.0)
                build.put(row, here, -slope)

    def _add_latency(self, step: int, layer: int, rows: Ints) -> None:
        """Rows for latencies: tiers that serve reads are touched; the last may serve the reads of others."""
        coefficients, build, instance = self.coefficients, self._build, self.instance
        most = np.array([coefficients.most_reads(step, layer, k) for k in range(self._tiers)]).T
        touched, diverted = self.touched[step, layer], self.diverted[step, layer]
        served = self.traffic[step, layer, 0]
        build.put(rows[:, None], touched, -coefficients.waits)
        build.put(rows[:, None], diverted[: self._fast], coefficients.facets[:, : self._fast])
        total = diverted[: self._fast]
        build.put(rows[:, None], total, -coefficients.facets[:, [self._fast]])
        keys = [[step, layer, k] for k in range(self._tiers)]
        touch = build.add_rows("touch", keys, upper=0.0)
        build.put(touch, served, 1.0)
        build.put(touch, touched, -most[0])
        touch_extra = build.add_rows("touch_extra", keys, upper=0.0)
        build.put(touch_extra, self.traffic[step, layer, 1], 1.0)
        build.put(touch_extra, touched, -most[1])
        build.put(touch[: self._fast], total, -1.0)
        build.put(touch[-1], total, 1.0)
        divert = build.add_rows("divert", [[step, layer, k] for k in range(self._tiers)], upper=0.0)
        build.put(divert, diverted, 1.0)
        if instance.inclusive:
            build.put(divert[: self._fast], served[: self._fast], -1.0)

    def schedule(self, values: Floats) -> Schedule:
        """Return the schedule of an integer solution, shape (columns,)."""
        instance = self.instance
        held = np.where(self.x == NONE, 0.0, values[self.x]) > 0.5
        tier = np.where(held.any(axis=3), held.argmax(axis=3), self._fast).astype(np.uint8)
        initial = tier[0][:, instance.grouping.of[: instance.prefill_tokens]]
        return from_tiers(initial, [tier[1:, layer] for layer in range(instance.layers)], instance.grouping)

    def start(self, schedule: Schedule) -> tuple[NDArray[np.int32], Floats]:
        """Return the columns x, and their values for a schedule."""
        blocks = self.instance.grouping
        tier = np.full(self.x.shape[:3], self._fast, np.uint8)
        tier[:, :, : blocks.prompt] = schedule.initial[:, blocks.head[: blocks.prompt]]
        for layer, events in enumerate(schedule.events):
            block = blocks.of[events.token]
            opens = blocks.head[block] == events.token  # the birth of a later token moves no block
            for n in np.flatnonzero(opens):
                tier[events.step[n] + 1 :, layer, block[n]] = events.tier[n]
        held = tier[..., None] == np.arange(self._fast)
        known = self.x != NONE
        columns, first = np.unique(self.x[known], return_index=True)
        return columns.astype(np.int32), held[known][first].astype(np.float64)
