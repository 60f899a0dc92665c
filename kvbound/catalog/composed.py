"""Memories composed from an accelerator and further parts, such as ``h100+ddr5+nvme5``.

An accelerator has a memory of its own and a link to its host. Each part is a tier behind that link, in the
order of the name, so that reads from it load the link's way down and what the part itself consists of.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from kvbound.catalog.entries import entries
from kvbound.fields import did_you_mean
from kvbound.memory import MAX_TIERS

PLUS: Final = "+"


class CompositionError(ValueError):
    """A name that composes no memory; the message says what was expected and what was found."""


@dataclass(frozen=True)
class Accelerator:
    """What a composed name begins with.

    Parameters
    ----------
    fields
        ``source``, ``resources``, ``tiers``, ``sources`` and ``energy``, as in a memory.
    down, up
        Resources of the link over which all that follows is read and written; none with unified memory.
    host
        The tier that is the host's memory, if it comes with the accelerator.
    """

    name: str
    fields: dict[str, Any]
    down: tuple[str, ...]
    up: tuple[str, ...]
    host: str | None


def accelerators() -> tuple[str, ...]:
    """Return the names of all accelerators, in the catalog's order."""
    return tuple(entries("accelerator"))


def parts() -> tuple[str, ...]:
    """Return the names of all parts, in the catalog's order."""
    return tuple(entries("part"))


def accelerator(name: str) -> Accelerator:
    """Return an accelerator of the catalog."""
    entry = copy.deepcopy(entries("accelerator")[name])
    if "memory" in entry:
        return _from_memory(name, entry)
    link = entry.pop("link", {"down": [], "up": []})
    tier = entry.pop("tier")
    fields = {"tiers": [tier], "energy": {}, **entry}
    host = None if link["down"] else tier["name"]
    return Accelerator(name, fields, tuple(link["down"]), tuple(link["up"]), host)


def _from_memory(name: str, entry: dict[str, Any]) -> Accelerator:
    """Take the first tier and the link of a memory of the catalog, and its host's memory if that is given."""
    memory = copy.deepcopy(entries("memory")[entry["memory"]])
    first, last = memory["tiers"]
    bus = last["name"]
    down, up = (tuple(each for each in last[way] if each != bus) for way in ("reads", "writes"))
    fields = {"energy": {}, **memory, "sources": memory["sources"] | entry.get("sources", {})}
    if "host" in entry:
        fields["tiers"] = [first, last | entry["host"]]
        return Accelerator(name, fields, down, up, bus)
    fields["tiers"] = [first]
    for table in ("resources", "energy"):
        fields[table].pop(bus, None)
    fields["sources"] = {path: text for path, text in fields["sources"].items() if bus not in path.split(".")}
    return Accelerator(name, fields, down, up, None)


def part(name: str, behind: Accelerator | None = None) -> dict[str, Any]:
    """Return a part of the catalog: ``source``, ``resources``, ``tiers``, ``sources`` and ``energy``.

    Parameters
    ----------
    behind
        The accelerator whose link its traffic crosses; by default none.
    """
    entry = copy.deepcopy(entries("part")[name])
    tier = {"name": name, **{field: entry.pop(field) for field in ("capacity", "reads", "writes", "latency")}}
    if behind is not None:
        tier["reads"] = [*behind.down, *tier["reads"]]
        tier["writes"] = [*behind.up, *tier["writes"]]
    return {"energy": {}, **entry, "tiers": [tier]}


def compose(name: str) -> dict[str, Any]:
    """Return the memory of a composed name as a mapping, in the form of instance files.

    Raises
    ------
    CompositionError
        The name has another form, or its parts do not go together.
    """
    first, *rest = name.split(PLUS)
    _check_names(first, rest)
    base = accelerator(first)
    problem = _problem(base, rest)
    if problem:
        raise CompositionError(problem)
    pieces = [base.fields, *(part(each, base) for each in rest)]
    made = {
        "name": name,
        "source": "; ".join([pieces[0]["source"], *(f"{each}: {part(each)['source']}" for each in rest)]),
        "resources": _joined(pieces, "resources"),
        "tiers": [tier for piece in pieces for tier in piece["tiers"]],
        "sources": _joined(pieces, "sources"),
    }
    energy = _joined(pieces, "energy")
    return made | ({"energy": energy} if energy else {})


def fitting(name: str) -> tuple[str, ...]:
    """Return the parts that may follow a name; none if it does not begin with an accelerator."""
    first, *rest = name.split(PLUS)
    if first not in accelerators() or not set(rest) <= set(parts()):
        return ()
    base = accelerator(first)
    return tuple(each for each in parts() if not _problem(base, [*rest, each]))


def _joined(pieces: list[dict[str, Any]], table: str) -> dict[str, Any]:
    return {key: value for piece in pieces for key, value in piece[table].items()}


def _check_names(first: str, rest: list[str]) -> None:
    """Raise if there is no such accelerator, or no such part."""
    if first not in accelerators():
        hint = " (a part)" if first in parts() else did_you_mean(first, accelerators())
        expected = f"an accelerator before the first '{PLUS}', not {first!r}{hint}"
        raise CompositionError(_with_host(first, rest) or expected)
    for each in rest:
        if each in accelerators():
            raise CompositionError(f"parts after the first '{PLUS}', not {each!r} (an accelerator)")
        if each not in parts():
            raise CompositionError(f"a part after '{PLUS}', not {each!r}{did_you_mean(each, parts())}")


def _with_host(first: str, rest: list[str]) -> str:
    """Return the name to use for a memory of two tiers and more parts; empty text for other names."""
    for known, entry in entries("accelerator").items():
        if entry.get("memory") == first:
            host = entries("memory")[first]["tiers"][1]["name"]
            return f"{PLUS.join([known, host, *rest])!r}, as {first} is {known} and {host}"
    return ""


def _problem(base: Accelerator, rest: list[str]) -> str:
    """Return what is expected of parts that do not go together, or empty text."""
    known = entries("part")
    twice = [each for n, each in enumerate(rest) if each in rest[:n]]
    if twice:
        return f"every part only once, not {twice[0]!r} twice"
    hosts = [each for each in rest if known[each].get("host")]
    if hosts and base.host is not None:
        own = "its host's memory" if base.down else "unified memory"
        return f"no {hosts[0]!r}, as {base.name} includes {own}, {base.host!r}"
    if len(hosts) > 1:
        return f"one part for the host's memory, not {' and '.join(map(repr, hosts))}"
    unlimited = [each for each in rest[:-1] if known[each]["capacity"] == "unlimited"]
    if unlimited:
        return f"{unlimited[0]!r} as the last part, as it is unlimited"
    tiers = len(base.fields["tiers"]) + len(rest)
    return f"at most {MAX_TIERS} tiers, not {tiers}" if tiers > MAX_TIERS else ""
