"""Shell completion; the library is imported only when a completion is requested."""

from __future__ import annotations


def instances(incomplete: str) -> list[str]:
    """Names of the library's instances."""
    from kvbound.instance_io import library

    return [name for name in library() if name.startswith(incomplete)]


def memories(incomplete: str) -> list[str]:
    """Names of the catalog's memories; accelerators with a plus, and after it the parts that may follow."""
    from kvbound.catalog import Kind, accelerators, fitting, names

    earlier, plus, last = incomplete.rpartition("+")
    if plus:
        return [f"{earlier}+{name}" for name in fitting(earlier) if name.startswith(last)]
    whole = names(Kind.MEMORY)
    known = [*whole, *(f"{name}+" for name in accelerators() if name not in whole)]
    return [name for name in known if name.startswith(incomplete)]


def llms(incomplete: str) -> list[str]:
    """Names of the catalog's language models."""
    from kvbound.catalog import Kind, names

    return [name for name in names(Kind.LLM) if name.startswith(incomplete)]


def trained(incomplete: str) -> list[str]:
    """Names of the trained models that packages hold."""
    from kvbound.accuracy.models import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


def policies(incomplete: str) -> list[str]:
    """Names of the policies, and the ideal."""
    from kvbound.policies import POLICIES

    return [name for name in (*POLICIES, "best", "ideal") if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Names of the solvers and policies."""
    from kvbound.solvers.registry import METHODS

    return [name for name in METHODS if name.startswith(incomplete)] + policies(incomplete)


def method_lists(incomplete: str) -> list[str]:
    """The same for the last name of a comma list."""
    earlier, comma, last = incomplete.rpartition(",")
    return [f"{earlier}{comma}{name}" for name in methods(last)]
