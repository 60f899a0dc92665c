"""How good KV-cache placement can possibly get, proved, and how far today's policies are from it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kvbound.version import __version__ as __version__

if TYPE_CHECKING:
    from kvbound.cost.evaluate import evaluate as evaluate
    from kvbound.cost.ideal import ideal as ideal
    from kvbound.frame import compare as compare
    from kvbound.front import pareto as pareto
    from kvbound.instance import Instance as Instance
    from kvbound.instance_io import make_instance as make_instance
    from kvbound.instance_io import read_instance as read_instance
    from kvbound.instance_io import write_instance as write_instance
    from kvbound.objective import Objective as Objective
    from kvbound.result import Bound as Bound
    from kvbound.result import Result as Result
    from kvbound.rules import Rules as Rules
    from kvbound.schedule import Schedule as Schedule
    from kvbound.simulation import simulate as simulate
    from kvbound.solvers.portfolio import solve as solve
    from kvbound.trace import Trace as Trace
    from kvbound.trace import read_trace as read_trace
    from kvbound.verify import bound as bound
    from kvbound.verify import check as check

_HOME = {
    "Bound": "result",
    "Instance": "instance",
    "Objective": "objective",
    "Result": "result",
    "Rules": "instance",
    "Schedule": "schedule",
    "Trace": "trace",
    "bound": "verify",
    "check": "verify",
    "compare": "frame",
    "evaluate": "cost.evaluate",
    "ideal": "cost.ideal",
    "make_instance": "instance_io",
    "pareto": "front",
    "read_instance": "instance_io",
    "read_trace": "trace",
    "simulate": "simulation",
    "solve": "solvers",
    "write_instance": "instance_io",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import kvbound`` stays fast."""
    if name not in _HOME:
        raise AttributeError(f"module 'kvbound' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kvbound.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
