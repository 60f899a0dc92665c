"""Placement rules, online and oracle. To add one, write a small class in a file and a line in `POLICIES`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from kvbound.errors import UsageError
from kvbound.fields import did_you_mean
from kvbound.policies import own
from kvbound.policies.base import Birth, MoveRequest, Policy
from kvbound.policies.own import is_file
from kvbound.policies.view import InstanceView, Slot

__all__ = [
    "PLACING_WEIGHTS",
    "POLICIES",
    "Birth",
    "InstanceView",
    "MoveRequest",
    "Policy",
    "Slot",
    "describe",
    "is_file",
    "is_policy",
    "make_policy",
]

POLICIES: dict[str, str] = {
    "static": "static:Static",
    "reactive": "reactive:Reactive",
    "page": "page:Page",
    "lookahead-one": "lookahead:LookaheadOne",
    "sa-guided": "sa_guided:SaGuided",
    "lru": "lru:Lru",
    "lfu": "lfu:Lfu",
    "keep-last": "keep_last:KeepLast",
    "recency-window": "recency_window:RecencyWindow",
    "heavy-hitter": "heavy_hitter:HeavyHitter",
    "belady": "belady:Belady",
    "llamacpp-ngl": "llamacpp:LlamacppNgl",
    "llamacpp-nkvo": "llamacpp:LlamacppNkvo",
    "llamacpp-fit": "llamacpp:LlamacppFit",
}

PLACING_WEIGHTS = "llamacpp-ngl", "llamacpp-nkvo", "llamacpp-fit"
"""Policies made for placeable weights; with resident ones they are compared only if asked for."""


def _load(name: str) -> type[Any]:
    """Return the class of a name, or of ``FILE.py:Class``."""
    if is_file(name):
        return own.load_class(name)
    if name not in POLICIES:
        raise UsageError(
            f"unknown policy {name!r}{did_you_mean(name, POLICIES)} "
            f"(known: {', '.join(POLICIES)}; your own is FILE.py:Class)"
        )
    module, cls = POLICIES[name].split(":")
    found: type[Any] = getattr(importlib.import_module(f"kvbound.policies.{module}"), cls)
    return found


def is_policy(method: object) -> bool:
    """Whether `method` is a policy: a name, ``FILE.py:Class``, a class or an object."""
    return not isinstance(method, str) or method in POLICIES or is_file(method)


def make_policy(policy: Policy | type[Any] | str, **options: Any) -> Policy:
    """Return a policy ready to run.

    Parameters
    ----------
    policy
        A name, ``FILE.py:Class``, a class, or an object with the `Policy` protocol.
    options
        Arguments of the class.

    Raises
    ------
    UsageError
        There is no such policy, or it takes no such option.
    """
    if not isinstance(policy, str | type):
        made = own.wrapped(policy)
        if options:
            raise UsageError(f"policy {made.name} is an object, not a class, and takes no options here")
        return made
    cls, name = (_load(policy), policy) if isinstance(policy, str) else (policy, policy.__name__)
    known = _parameters(cls)
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "no options"
            raise UsageError(f"policy {name} takes {takes}, not {option!r}")
    return own.wrapped(own.make(cls, name, options))


def describe(name: str) -> tuple[str, bool, dict[str, Any]]:
    """Return a policy's first line of documentation, whether it sees the future, its options."""
    cls = _load(name)
    summary = (inspect.cleandoc(cls.__doc__ or "").splitlines() or [""])[0]
    return summary, bool(getattr(cls, "oracle", False)), _parameters(cls)


def _parameters(cls: type[Any]) -> dict[str, Any]:
    """Names and defaults of a class's arguments; None where there is no default."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:  # of a built-in type
        return {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind not in kinds}
