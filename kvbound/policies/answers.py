"""Checks of what a policy returns: scores, or a move request."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from kvbound.errors import UsageError
from kvbound.policies.base import NO_TOKENS, Birth, MoveRequest, Policy, Scores
from kvbound.policies.view import Ids, Slot
from kvbound.units import show


def checked_answer(policy: Policy, answer: object, slot: Slot) -> Scores | MoveRequest:
    """Return what a policy's `step` returned.

    Raises
    ------
    UsageError
        It is neither one score per token nor a request about past tokens.
    """
    if isinstance(answer, MoveRequest):
        return checked_request(policy, answer, slot)
    return checked_scores(policy, answer, (slot.tokens + slot.births,))


def checked_scores(policy: Policy, answer: object, shape: tuple[int, ...]) -> Scores:
    """Return a policy's scores as an array.

    Raises
    ------
    UsageError
        They are not one number per token.
    """
    scores = None
    with suppress(TypeError, ValueError):
        scores = np.asarray(answer, np.float64)
    if scores is not None and scores.shape == shape and not np.isnan(scores).any():
        return scores
    if scores is None or answer is None:
        found = show(answer)
    else:
        found = "NaN" if scores.shape == shape else f"shape {scores.shape}"
    raise UsageError(f"policy {policy.name}: expected scores of shape {shape}, not {found}")


def checked_request(policy: Policy, request: MoveRequest, slot: Slot) -> MoveRequest:
    """Return a policy's request.

    Raises
    ------
    UsageError
        It names something other than ids of past tokens.
    """

    def ids(what: str, tokens: object) -> Ids:
        given = np.asarray(tokens)
        if given.size == 0:
            return NO_TOKENS
        if given.ndim != 1 or given.dtype.kind not in "iu":
            found = f"{given.dtype} of shape {given.shape}"
            raise UsageError(
                f"policy {policy.name}: a MoveRequest's {what} is a list of token ids, not {found}"
            )
        if not 0 <= given.min() <= given.max() < slot.tokens:
            wrong = given.max() if given.min() >= 0 else given.min()
            past = f"one of the past tokens 0 to {slot.tokens - 1}"
            raise UsageError(f"policy {policy.name}: a MoveRequest's {what} holds {wrong}, expected {past}")
        return given.astype(np.int64, copy=False)

    if not _is_birth(request.birth, slot.births):
        expected = f"a Birth, or a list of one for each of the new tokens ({slot.births})"
        found = show(request.birth)
        raise UsageError(f"policy {policy.name}: a MoveRequest's birth is {expected}, not {found}")
    return replace(request, promote=ids("promote", request.promote), evict=ids("evict", request.evict))


def _is_birth(given: object, births: int) -> bool:
    """Whether it is a `Birth`, or a list of one for each new token."""
    if isinstance(given, list | tuple):
        return len(given) == births and all(isinstance(each, Birth) for each in given)
    return isinstance(given, Birth)
