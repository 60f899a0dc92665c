"""Placement rules, online and oracle. To add one: a file with a small class, and a line below."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from kvbound.errors import UsageError
from kvbound.fields import did_you_mean
from kvbound.policies.base import Birth, Policy, Slot, Wish

__all__ = ["POLICIES", "Birth", "Policy", "Slot", "Wish", "describe", "make_policy"]

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
}


def _load(name: str) -> type[Any]:
    if name not in POLICIES:
        raise UsageError(
            f"unknown policy {name!r}{did_you_mean(name, POLICIES)} (known: {', '.join(POLICIES)})"
        )
    module, cls = POLICIES[name].split(":")
    found: type[Any] = getattr(importlib.import_module(f"kvbound.policies.{module}"), cls)
    return found


def make_policy(name: str, **options: Any) -> Policy:
    """Return a policy by name.

    Raises
    ------
    UsageError
        No such policy, or it takes no such option.
    """
    cls = _load(name)
    known = [p for p in inspect.signature(cls).parameters if p not in ("args", "kwargs")]
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "no options"
            raise UsageError(f"policy {name} takes {takes}, not {option!r}")
    policy: Policy = cls(**options)
    return policy


def describe(name: str) -> tuple[str, bool, dict[str, Any]]:
    """Return a policy's first line of documentation, whether it sees the future, its options."""
    cls = _load(name)
    summary = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
    parameters = inspect.signature(cls).parameters.values()
    options = {p.name: p.default for p in parameters if p.name not in ("args", "kwargs")}
    return summary, cls.oracle, options
