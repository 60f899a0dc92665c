"""Births and ends: the step in which each token is born, and the last step in which it exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.fields import show

Ints = NDArray[np.int64]

MAX_TOKENS: Final = 2**27
PROMPT: Final = -1
"""Birth step of the prompt's tokens."""
FIELDS: Final = "births", "ends", "sequence", "outputs"
"""The optional fields of a trace."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The births and ends of the tokens of a decode run; their ids ascend in the order of their births.

    Attributes
    ----------
    prefill_tokens
        Prompt tokens P, which exist before the first step.
    births
        Tokens born in each step, shape (steps,).
    ends
        Last step in which each token exists, the number of steps for those that stay, shape (tokens,).
    sequence
        Sequence to which each token belongs, numbered in the order of their first tokens, shape (tokens,).
    outputs
        Decoded tokens among the births of each step, those of arriving prompts left out, shape (steps,).
    """

    prefill_tokens: int
    births: Ints
    ends: Ints
    sequence: Ints
    outputs: Ints

    def __post_init__(self) -> None:
        for name in FIELDS:
            values = np.asarray(getattr(self, name), np.int64).view()
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @classmethod
    def of(
        cls,
        prefill_tokens: int,
        steps: int,
        *,
        births: object = None,
        ends: object = None,
        sequence: object = None,
        outputs: object = None,
        file: object = "trace",
        field: str = "",
    ) -> Timeline:
        """Return a timeline from the optional fields of a trace.

        Parameters
        ----------
        births
            Tokens born in each step: one number for all steps, or one per step; None is 1.
        ends
            Last step of each token, None for a token that stays; None in place of all if no token ends.
        sequence
            Label of each token, an integer that all tokens of a sequence share; None is one sequence.
        outputs
            Decoded tokens of each step, in the form of `births`; None means all births.
        file, field
            Their origin, for messages.

        Raises
        ------
        InputError
            A field is not as expected; the message names it.
        """

        def fail(name: str, expected: str) -> InputError:
            return InputError(file, f"{field}.{name}" if field else name, expected)

        def per_step(name: str, given: object) -> Ints:
            single = isinstance(given, int | np.integer) and not isinstance(given, bool)
            counts = _integers([given] * steps if single else given, steps)
            if counts is None or bool(np.any((counts < 0) | (counts > MAX_TOKENS))):
                numbers = f"a number of tokens from 0 to {MAX_TOKENS:,}, or a list of {steps:,}, one per step"
                raise fail(name, f"{numbers}, not {_found(given)}")
            return counts

        born = np.ones(steps, np.int64) if births is None else per_step("births", births)
        if (tokens := prefill_tokens + int(born.sum())) > MAX_TOKENS:
            raise fail("births", f"at most {MAX_TOKENS:,} tokens in all, not {tokens:,}")
        decoded = born if outputs is None else per_step("outputs", outputs)
        if bool(np.any(decoded > born)):
            step = int(np.flatnonzero(decoded > born)[0])
            most = f"at most as many decoded tokens as births in every step: in step {step} {born[step]:,}"
            raise fail("outputs", f"{most}, not {decoded[step]:,}")
        last = np.broadcast_to(np.int64(steps), tokens)
        if ends is not None:
            given_ends = _integers(ends, tokens, none=steps)
            if given_ends is None:
                each = f"a list of {tokens:,} steps, one per token, null for tokens that stay"
                raise fail("ends", f"{each}, not {_found(ends)}")
            first = np.maximum(_birth_steps(prefill_tokens, born), 0)
            listed = np.array([end == steps for end in ends]) if isinstance(ends, list | tuple) else False
            if len(wrong := np.flatnonzero((given_ends < first) | (given_ends > steps) | listed)):
                token = int(wrong[0])
                since = (
                    f"for token {token} a step from its birth, {first[token]:,}, to {steps - 1:,}, or null"
                )
                raise fail("ends", f"{since}, not {given_ends[token]:,}")
            last = given_ends
        labels = np.broadcast_to(np.int64(0), tokens)
        if sequence is not None:
            given_labels = _integers(sequence, tokens)
            if given_labels is None:
                each = f"a list of {tokens:,} integers, one per token"
                raise fail("sequence", f"{each}, not {_found(sequence)}")
            labels = _by_first_occurrence(given_labels)
        return cls(prefill_tokens, born, last, labels, decoded)

    def __repr__(self) -> str:
        """Return the numbers of tokens and steps, in a line."""
        return (
            f"<Timeline: {self.prefill_tokens:,} + {int(self.births.sum()):,} tokens, {self.steps:,} steps>"
        )

    @property
    def steps(self) -> int:
        """Decode steps, N."""
        return len(self.births)

    @property
    def tokens(self) -> int:
        """Prompt and born tokens."""
        return self.prefill_tokens + int(self.births.sum())

    @cached_property
    def past(self) -> Ints:
        """Tokens born before each step, and in all steps, shape (steps + 1,).

        The tokens born in step j have the ids from ``past[j]`` to ``past[j + 1] - 1``.
        """
        return self.prefill_tokens + np.concatenate([[0], np.cumsum(self.births)])

    @cached_property
    def born(self) -> Ints:
        """Step in which each token is born, `PROMPT` for the prompt, shape (tokens,)."""
        return _birth_steps(self.prefill_tokens, self.births)

    @cached_property
    def position(self) -> Ints:
        """Position of each token in its sequence, shape (tokens,)."""
        return positions(self.sequence)

    @cached_property
    def _by_end(self) -> tuple[Ints, Ints]:
        """Tokens in the order of their ends, and how many of them end before each step, (steps + 1,)."""
        order = np.argsort(self.ends, kind="stable") if not self.all_stay else np.arange(self.tokens)
        return order, np.searchsorted(self.ends[order], np.arange(self.steps + 1))

    def ending(self, step: int) -> Ints:
        """Return the tokens that end in a step."""
        order, before = self._by_end
        return order[before[step] : before[step + 1]]

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the fields that are not at their defaults."""
        defaults = {
            "births": self.one_each,
            "ends": self.all_stay,
            "sequence": not self.sequence.any(),
            "outputs": np.array_equal(self.outputs, self.births),
        }
        return tuple(name for name in FIELDS if not defaults[name])

    @property
    def plain(self) -> bool:
        """Whether all fields are at their defaults: one sequence, one birth in every step, no ends."""
        return not self.given

    @property
    def one_each(self) -> bool:
        """Whether one token is born in every step."""
        return bool((self.births == 1).all())

    @property
    def all_stay(self) -> bool:
        """Whether no token ends."""
        return bool((self.ends == self.steps).all())

    @cached_property
    def live(self) -> Ints:
        """Past tokens that exist when each step begins, and after the last one, shape (steps + 1,)."""
        return self.past - self._by_end[1]

    @property
    def most_live(self) -> int:
        """The largest number of tokens that exist at the start or after a step."""
        return int(self.live.max())

    def by_layer(self, windows: Sequence[int | None]) -> tuple[Timeline, ...]:
        """Return the timeline of each layer, given its sliding window; one object for equal ones."""
        known = {window: self.windowed(window) for window in set(windows) if window is not None}
        return tuple(self if window is None else known[window] for window in windows)

    def windowed(self, window: int) -> Timeline:
        """Return the timeline in a layer with a sliding window of so many tokens.

        The token at position p of its sequence is last present in the step that produces position
        p + window - 1. Tokens of the prompt for which this is one of the prompt end in step -1.
        """
        order = np.argsort(self.sequence, kind="stable")
        later = order[window - 1 :]
        token = order[: len(later)]
        within = self.sequence[token] == self.sequence[later]
        ends = self.ends.copy()
        ends[token[within]] = np.minimum(ends[token[within]], self.born[later[within]])
        return self if np.array_equal(ends, self.ends) else replace(self, ends=ends)

    def head(self, steps: int) -> Timeline:
        """Return the timeline of the first `steps` steps, in which tokens that end later stay."""
        tokens = int(self.past[steps])
        ends, sequence = np.minimum(self.ends[:tokens], steps), self.sequence[:tokens]
        return Timeline(self.prefill_tokens, self.births[:steps], ends, sequence, self.outputs[:steps])

    def to_mapping(self, *, sequence: bool = True) -> dict[str, Any]:
        """Return the fields of a trace that are not at their defaults, the labels only with `sequence`."""
        fields: dict[str, Any] = {name: getattr(self, name).tolist() for name in self.given}
        if "ends" in fields:
            fields["ends"] = [None if end == self.steps else end for end in fields["ends"]]
        if not sequence:
            fields.pop("sequence", None)
        return fields


def positions(sequence: Ints) -> Ints:
    """Return the position of each token in its sequence, given the sequence of each, shape (tokens,)."""
    position = np.arange(len(sequence))
    if not sequence.any():
        return position
    order = np.argsort(sequence, kind="stable")
    position[order] = np.arange(len(sequence)) - np.searchsorted(sequence[order], sequence[order])
    return position


def _birth_steps(prefill_tokens: int, births: Ints) -> Ints:
    steps = np.repeat(np.arange(len(births)), births)
    return np.concatenate([np.full(prefill_tokens, PROMPT), steps])


def _found(given: object) -> str:
    """Describe what was given in place of a number or a list."""
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str):
        return f"a list of {len(given):,}: {show(list(given))}"
    return show(given)


def _integers(values: object, count: int, none: int | None = None) -> Ints | None:
    """Return a list of `count` integers as an array, or None if it is something else.

    Parameters
    ----------
    none
        What entries that are None stand for; without it they are refused.
    """
    if isinstance(values, list | tuple) and none is not None:
        values = [none if value is None else value for value in values]
    if isinstance(values, np.ndarray):
        array = values
    elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
        if not all(
            issubclass(kind, int | np.integer) and kind is not bool for kind in set(map(type, values))
        ):
            return None
        try:
            array = np.array(values, np.int64)
        except OverflowError:
            return None
    else:
        return None
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        return None
    return array.astype(np.int64)


def _by_first_occurrence(labels: Ints) -> Ints:
    """Number labels in the order in which they first occur."""
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number] if len(labels) else labels
