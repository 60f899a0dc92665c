"""A policy and an instance give a schedule: what the rules allow of what the policy wants."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvbound import arguments
from kvbound.cost import evaluate, ideal, identify
from kvbound.errors import InfeasibleError, UsageError
from kvbound.instance import Initial, Instance, Migration
from kvbound.kernels import named, pick
from kvbound.policies import is_file, make_policy
from kvbound.policies.answers import checked_scores, checked_wish
from kvbound.policies.base import (
    NOBODY,
    Birth,
    Ids,
    Policy,
    Scores,
    Slot,
    Wish,
    mask,
    prompt_first,
    recent_first,
)
from kvbound.policies.future import Future
from kvbound.progress import Progress, silent
from kvbound.published import PUBLISHED as PUBLISHED
from kvbound.published import simulate_published
from kvbound.result import Bound, BoundStatus, Result, Status, Termination
from kvbound.schedule import LayerEvents, Schedule

Tiers = NDArray[np.uint8]


def simulate(
    instance: Instance,
    policy: Policy | type[Any] | str,
    *,
    seed: int = 0,
    kernel: str | None = None,
    record: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Run one policy on an instance, under the accounting its rules name.

    Parameters
    ----------
    policy
        A name (see `kvbound.policies`, or "ideal"), ``FILE.py:Class``, or a class or object with the
        `Policy` protocol.
    kernel
        "numpy" or "numba" for the hot loops that have both; None takes the faster one at hand.
    record
        Keep what the checker replays under fang2025 accounting, which takes memory; a physical
        schedule is always kept.
    options
        The policy's own, such as ``window=5, topk=0.5`` for sa-guided.

    Raises
    ------
    UsageError
        Unknown policy or option, one that the accounting does not know, or a policy of your own that
        fails; the error's cause is what it raised.
    """
    start = time.perf_counter()
    arguments.instance(instance)
    options = {key: arguments.plain(value) for key, value in options.items()}
    rule: Policy | None = None
    if isinstance(policy, str) and not is_file(policy):
        name = "best" if policy == "ideal" and instance.physical else policy
    else:
        rule = make_policy(policy, **options)
        name = rule.name
    about: dict[str, Any] = {"method": name, "seed": arguments.count("seed", seed, 0), "options": options}
    if named(kernel) == "numba":  # what cannot be had is refused even where one kernel does it all
        pick(kernel)
    try:
        _ = instance.room
        if not instance.physical:
            return simulate_published(instance, rule or name, about, kernel, progress, start, record=record)
        if rule is None and name == "best":
            return _best(instance, about, start)
        rule = rule or make_policy(name, **options)
        schedule = run(instance, rule, np.random.default_rng(seed), progress)
        measures = evaluate(instance, schedule, progress)
    except InfeasibleError as error:
        identity, why = identify(instance, with_trace=False), Termination(str(error))
        wall_s = time.perf_counter() - start
        return Result(identity, status=Status.INFEASIBLE, termination=why, wall_s=wall_s, **about)
    return Result(
        identify(instance),
        status=Status.FEASIBLE,
        measures=measures,
        wall_s=time.perf_counter() - start,
        schedule=schedule,
        **about,
    )


def _best(instance: Instance, about: dict[str, Any], start: float) -> Result:
    if about["options"]:
        raise UsageError("policy best takes no options")
    bound = Bound(ideal(instance), BoundStatus.CLAIMED, "ideal")
    identity = identify(instance, with_trace=False)
    return Result(identity, status=Status.UNKNOWN, bound=bound, wall_s=time.perf_counter() - start, **about)


def run(
    instance: Instance, policy: Policy, rng: np.random.Generator, progress: Progress = silent
) -> Schedule:
    """Return the schedule of a policy under physical accounting."""
    answer = policy.start(instance, rng)
    prompt = (instance.layers, instance.prefill_tokens)
    scores = recent_first(instance) if answer is None else checked_scores(policy, answer, prompt)
    pool = _Pool.filled(instance, scores)
    initial = pool.tiers(instance.prefill_tokens)
    oracle = getattr(policy, "oracle", False)
    futures = [Future(instance.trace, n) if oracle else None for n in range(instance.layers)]
    logs: list[_Log] = [_Log() for _ in range(instance.layers)]
    for step in range(instance.decode_steps):
        for layer in range(instance.layers):
            _play(instance, policy, pool, logs[layer], futures[layer], step, layer)
        progress(step + 1, instance.decode_steps, policy.name)
    return Schedule(initial, tuple(log.events() for log in logs))


def fill(instance: Instance, scores: Scores) -> Tiers:
    """Tier of every block the prompt begins, shape (layers, prompt blocks).

    The tiers are filled, fastest first, in falling order of scores (layers, prefill), or token by
    token, layer by layer where the rules say prefill-first. What is worth nothing, -inf, leaves the
    fast tiers to what is born later as long as the slow ones have room.
    """
    starts = np.arange(0, instance.prefill_tokens, instance.granularity)
    if not len(starts):
        return np.zeros((instance.layers, 0), np.uint8)
    if instance.rules.initial is Initial.PREFILL_FIRST:
        scores = prompt_first(instance)
    worth = np.maximum.reduceat(scores, starts, axis=1).ravel()
    ranked = np.lexsort((-np.arange(worth.size), -worth))
    room = np.array([worth.size if r is None else min(r, worth.size) for r in instance.room])
    order = np.arange(instance.tiers, dtype=np.uint8)
    fast = np.repeat(order, room)[: np.count_nonzero(worth > -np.inf)]
    room -= np.bincount(fast, minlength=instance.tiers)
    slow = np.repeat(order[::-1], room[::-1])[: worth.size - fast.size]
    tiers = np.empty(worth.size, np.uint8)
    tiers[ranked] = np.concatenate([fast, slow])
    return tiers.reshape(instance.layers, len(starts))


class _Log:
    """The events of one layer as they happen."""

    def __init__(self) -> None:
        self._steps: list[NDArray[np.int32]] = []
        self._tokens: list[NDArray[np.int32]] = []
        self._tiers: list[Tiers] = []

    def add(self, step: int, tokens: Ids, tiers: Tiers) -> None:
        self._steps.append(np.full(len(tokens), step, np.int32))
        self._tokens.append(tokens.astype(np.int32))
        self._tiers.append(tiers)

    def events(self) -> LayerEvents:
        return LayerEvents(
            np.concatenate(self._steps), np.concatenate(self._tokens), np.concatenate(self._tiers)
        )


@dataclass(eq=False)
class _Pool:
    """Where every block is, and how much room is left in each tier (shared by all layers)."""

    instance: Instance
    tier: Tiers  # (layers, blocks)
    room: NDArray[np.int64]  # (K,)

    @classmethod
    def filled(cls, instance: Instance, scores: Scores) -> _Pool:
        """Fill the tiers with the prompt, in falling order of scores (layers, prefill)."""
        unlimited = instance.layers * instance.blocks
        room = np.array([unlimited if r is None else r for r in instance.room], np.int64)
        tier = np.full((instance.layers, instance.blocks), instance.tiers - 1, np.uint8)
        prompt = fill(instance, scores)
        tier[:, : prompt.shape[1]] = prompt
        room -= np.bincount(prompt.ravel(), minlength=instance.tiers)
        return cls(instance, tier, room)

    def tiers(self, tokens: int, layer: int | slice = slice(None)) -> Tiers:
        """Tier of each of the first tokens, shape (..., tokens)."""
        of_layer = self.tier[layer]
        if self.instance.granularity == 1:
            return of_layer[..., :tokens].copy()
        return of_layer[..., np.arange(tokens) // self.instance.granularity]


def _play(
    instance: Instance,
    policy: Policy,
    pool: _Pool,
    log: _Log,
    future: Future | None,
    step: int,
    layer: int,
) -> None:
    """One slot: ask the policy, move what may move, place the new token."""
    tokens = instance.prefill_tokens + step
    slot = _view(instance, pool, future, step, layer)
    answer = policy.step(slot)
    if isinstance(answer, Wish):
        answer = checked_wish(policy, answer, slot)
    else:
        answer = _block_scores(checked_scores(policy, answer, (tokens + 1,)), instance)
    state = pool.tier[layer]
    born = -(-tokens // instance.granularity)  # blocks begun before this slot
    before = state[:born].copy()
    wish = answer if isinstance(answer, Wish) else _wish(answer, slot, pool, 0)
    left = _apply(wish, slot, pool)
    if not isinstance(answer, Wish):
        for tier in range(1, instance.tiers - 1):
            _apply(_wish(answer, slot, pool, tier), slot, pool, tier)
    if tokens % instance.granularity == 0:
        _bear(wish.birth, left, slot, pool)
    moved = np.flatnonzero(state[:born] != before)
    log.add(step, moved * instance.granularity, state[moved])
    log.add(step, np.array([tokens]), state[[tokens // instance.granularity]])


def _view(instance: Instance, pool: _Pool, future: Future | None, step: int, layer: int) -> Slot:
    tokens, trace = instance.prefill_tokens + step, instance.trace
    reads = trace.reads(step, layer)
    own = len(reads) > 0 and reads[-1] == tokens
    listed, mass = trace.listed(step, layer), trace.listed_mass(step, layer)
    if own:
        past = listed != tokens
        reads, listed, mass = reads[:-1], listed[past], None if mass is None else mass[past]
    tier = pool.tiers(tokens, layer)
    tier.flags.writeable = False
    if mass is not None:
        mass = mass.view()
        mass.flags.writeable = False
    if future is not None:
        future.now = step
    room = int(pool.room[0]) * instance.granularity
    return Slot(instance, step, layer, tokens, reads, listed, mass, tier, room, future)


def _block_scores(scores: Scores, instance: Instance) -> Scores:
    """A block is worth its best token."""
    if instance.granularity == 1:
        return scores
    return np.maximum.reduceat(scores, np.arange(0, len(scores), instance.granularity))


def _wish(scores: Scores, slot: Slot, pool: _Pool, tier: int) -> Wish:
    """Turn block scores into a wish, in tokens, for one tier: read blocks that outrank its lowest.

    In tier 0 a new block competes with the misses, lest one is brought in only to make way for it.
    """
    size = slot.instance.granularity
    opens = slot.tokens % size == 0
    born = len(scores) - 1 if opens else len(scores)
    state = pool.tier[slot.layer, :born]
    read = np.unique(slot.reads // size) if size > 1 else slot.reads
    coming = read[state[read] > tier]
    if opens and tier == 0:
        coming = np.append(coming, born)
    coming = coming[np.lexsort((-coming, -scores[coming]))]
    room = int(pool.room[tier])
    residents = _lowest(np.flatnonzero(state == tier), scores, max(0, len(coming) - room))
    better = scores[coming[room : room + len(residents)]] > scores[residents]
    chosen = coming[: room + int(np.argmin(np.append(better, False)))]
    birth = Birth.MAKE_ROOM if born in chosen else Birth.IF_ROOM
    return Wish(chosen[chosen < born] * size, residents * size, birth=birth)


def _lowest(ids: Ids, scores: Scores, count: int) -> Ids:
    """The `count` ids of lowest score, lowest first; of equal ones the lower id first."""
    if count < len(ids):
        values = scores[ids]
        threshold = np.partition(values, count - 1)[count - 1] if count else -np.inf
        below = values < threshold
        equal = np.flatnonzero(values == threshold)[: count - np.count_nonzero(below)]
        ids = np.concatenate([ids[below], ids[equal]])
    return ids[np.lexsort((ids, scores[ids]))]


def _apply(wish: Wish, slot: Slot, pool: _Pool, tier: int = 0) -> Ids:
    """Move what the rules allow; return the blocks that could still leave."""
    size, rules = slot.instance.granularity, slot.instance.rules
    state = pool.tier[slot.layer]
    if rules.migration is Migration.NONE:
        return NOBODY
    up = _blocks(wish.promote, slot)
    if rules.migration is Migration.ON_READ:
        read = np.zeros(len(state), bool)
        read[slot.reads // size] = True
        up = up[read[up]]
    up = up[state[up] > tier]
    out = _blocks(wish.evict, slot)
    out = out[state[out] == tier]
    short = len(up) - int(pool.room[tier])
    leave = 0 if short <= 0 else len(out) if wish.together else min(short, len(out))
    up = up[: int(pool.room[tier]) + leave]
    np.add.at(pool.room, state[up], 1)
    state[up] = tier
    pool.room[tier] -= len(up)
    gone = _sink(out[:leave], slot, pool)
    return out[gone:]


def _sink(out: Ids, slot: Slot, pool: _Pool) -> int:
    """Send blocks of one tier to the next slower tiers with room; return how many found some."""
    if not len(out):
        return 0
    state = pool.tier[slot.layer]
    tier = int(state[out[0]])
    gone = 0
    for below in range(tier + 1, slot.instance.tiers):
        fit = out[gone : gone + max(0, int(pool.room[below]))]
        state[fit] = below
        pool.room[below] -= len(fit)
        gone += len(fit)
    pool.room[tier] += gone
    return gone


def _bear(birth: Birth, out: Ids, slot: Slot, pool: _Pool) -> None:
    """Place the new block."""
    if birth is Birth.MAKE_ROOM and pool.room[0] <= 0:
        _sink(out[:1], slot, pool)
    open_tiers = np.flatnonzero(pool.room > 0)
    slower = open_tiers[open_tiers > 0]
    tier = slower[0] if birth is Birth.SLOW and len(slower) else open_tiers[0]
    pool.tier[slot.layer, slot.tokens // slot.instance.granularity] = tier
    pool.room[tier] -= 1


def _blocks(tokens: Ids, slot: Slot) -> Ids:
    """Blocks of past tokens, each once, in order of first mention."""
    ids = tokens // slot.instance.granularity
    if np.count_nonzero(mask(ids, slot.tokens)) == len(ids):
        return ids
    blocks, first = np.unique(ids, return_index=True)
    return blocks[np.argsort(first)]
