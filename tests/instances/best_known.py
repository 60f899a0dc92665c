"""Find the library's best known values again: ``python -m tests.instances.best_known [SET or NAME ...]``.

Rows of other sets stay as they are. Tiny and small take a minute or two, batch ten, real half an hour more;
paper takes seconds, but half an hour for its batches, whose traces of gigabytes are made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import kvbound as kv
from kvbound import library
from kvbound.certificate import Certificate, read_certificate, write_certificate
from kvbound.errors import InputError
from kvbound.instance_io import LIBRARY
from kvbound.library import BestKnown
from kvbound.models import columns
from kvbound.placement import write_placement
from kvbound.policies import POLICIES
from kvbound.result import Bound, Result, Status, share_bound
from kvbound.schedule import Schedule, read_schedule
from kvbound.solvers.portfolio import MOST_COLUMNS
from kvbound.solvers.registry import METHODS

LIMIT_S, BATCH_LIMIT_S = 120.0, 60.0
PROVED = 1e-4
"""Relative gap at which a schedule counts as optimal."""
GAP = 5e-3
"""Relative gap to its bound at which the schedule of a real instance is good enough."""


def main(wanted: Sequence[str]) -> None:
    """Solve the instances and write their rows."""
    rows = library.best_known() if library.BEST_KNOWN.exists() else {}
    for entry in library.entries():
        if not wanted or {entry.set, entry.name} & set(wanted):
            proved = _proved(rows.get(entry.name))
            rows[entry.name] = row = _with_better_bound(FIND[entry.set](entry.name), proved)
            print(
                f"{row.name}: {row.time_s} s, at least {row.bound_s} s ({row.method}, {row.status})",
                flush=True,
            )
            library.write_best_known(rows.values())


def _tiny(name: str) -> BestKnown:
    return _row("tiny", name, kv.solve(kv.read_instance(name), "brute"), "solve {} --method brute")


def _small(name: str) -> BestKnown:
    result = kv.solve(kv.read_instance(name), "exact", time_limit=LIMIT_S)
    _keep(result, "small", name)
    return _row("small", name, result, f"solve {{}} --method exact --time-limit {LIMIT_S:.0f}")


def _real(name: str) -> BestKnown:
    """The best of the policies and of what `solve` does; the bound is that method's."""
    instance = kv.read_instance(name)
    start = _without_prefetch(name)
    if start is not None:
        solved = kv.solve(instance, "exact", time_limit=LIMIT_S, start=start)
    else:
        solved = kv.solve(instance, gap=None if _small_program(instance) else GAP, time_limit=LIMIT_S)
    results = share_bound([*(kv.simulate(instance, policy) for policy in POLICIES), solved])
    best = min((r for r in results if r.measures), key=lambda result: result.time_s or 0.0)
    _keep(best, "real", name)
    _keep_certificate(solved, best.bound, "real", name)
    if start is not None:
        return _row("real", name, best, line=f"python -m tests.instances.best_known {name}")
    gap = "" if _small_program(instance) else f" --gap {GAP:.1%}"
    if best.method in METHODS:
        return _row("real", name, best, f"solve {{}}{gap} --time-limit {LIMIT_S:.0f}")
    return _row(
        "real", name, best, f"compare {{}} --methods {best.method},pricing --time-limit {LIMIT_S:.0f}"
    )


def _batch(name: str, set_name: str = "batch") -> BestKnown:
    """What `solve` finds; all that shows in it are its schedule and its bound."""
    result = kv.solve(kv.read_instance(name), gap=GAP, time_limit=BATCH_LIMIT_S)
    _keep(result, set_name, name)
    _keep_certificate(result, result.bound, set_name, name)
    return _row(set_name, name, result, f"solve {{}} --gap {GAP:.1%} --time-limit {BATCH_LIMIT_S:.0f}")


def _tiers(name: str) -> BestKnown:
    """The best of the policies and of what `solve` finds, which stops near the bound."""
    instance = kv.read_instance(name)
    solved = kv.solve(instance, gap=GAP, time_limit=BATCH_LIMIT_S)
    results = share_bound([*(kv.simulate(instance, policy) for policy in POLICIES), solved])
    best = min((r for r in results if r.measures), key=lambda result: result.time_s or 0.0)
    _keep(best, "tiers", name)
    _keep_certificate(solved, best.bound, "tiers", name)
    if best.method in METHODS:
        return _row("tiers", name, best, f"solve {{}} --gap {GAP:.1%} --time-limit {BATCH_LIMIT_S:.0f}")
    return _row("tiers", name, best, f"compare {{}} --methods {best.method},pricing")


def _weights(name: str) -> BestKnown:
    """As of batches; where the program is small, its schedule beside the dual's certificate."""
    instance = kv.read_instance(name)
    if not _small_program(instance):
        return _batch(name, "weights")
    result, dual = (kv.solve(instance, method, time_limit=BATCH_LIMIT_S) for method in ("exact", "dual"))
    _keep(result, "weights", name)
    _keep_certificate(dual, dual.bound, "weights", name)
    certified = replace(result, bound=dual.bound, status=Status.FEASIBLE)
    return _row("weights", name, certified, line=f"python -m tests.instances.best_known {name}")


def _small_program(instance: kv.Instance) -> bool:
    return columns(instance) <= MOST_COLUMNS


def _without_prefetch(name: str) -> Schedule | None:
    """Return the best schedule of the same instance on read: what that allows, prefetch allows too."""
    plain = name.removesuffix("-prefetch")
    if plain == name:
        return None
    instance = kv.read_instance(plain)
    return read_schedule(
        LIBRARY / "real" / f"{plain}.schedule.npz",
        instance_sha256=instance.sha256,
        layers=instance.layers,
        timeline=instance.timeline,
    )


def _keep(result: Result, set_name: str, name: str) -> None:
    """Write the schedule beside the instance: a search that stops on time cannot be run again alike."""
    file = LIBRARY / set_name / f"{name}.schedule.npz"
    file.unlink(missing_ok=True)
    if result.method in METHODS and result.schedule is not None:
        sha256, tokens = result.instance.sha256, result.instance.ids
        write_placement(result.schedule, file, instance_sha256=sha256 or "", tokens=tokens)


def _keep_certificate(dual: Result, bound: Bound, set_name: str, name: str) -> None:
    """Write what proves the bound beside the instance, if the dual gave the strongest."""
    file = LIBRARY / set_name / f"{name}.certificate.npz"
    file.unlink(missing_ok=True)
    if bound.method == "dual" and dual.certificate is not None:
        write_certificate(dual.certificate, file)


def _proved(row: BestKnown | None) -> tuple[BestKnown, Certificate] | None:
    """Return a row and the certificate beside the instance, None if it has none or is another instance's."""
    file = LIBRARY / row.set / f"{row.name}.certificate.npz" if row else LIBRARY
    if row is None or row.bound_by != "dual" or not file.is_file():
        return None
    try:
        return row, read_certificate(file, kv.read_instance(row.name))
    except InputError:
        return None


def _with_better_bound(found: BestKnown, proved: tuple[BestKnown, Certificate] | None) -> BestKnown:
    """Return a row with the bound of before, and its certificate, if that is the higher one."""
    if proved is None or found.bound_s is None or (proved[0].bound_s or 0.0) <= found.bound_s:
        return found
    before, certificate = proved
    assert before.bound_s is not None
    write_certificate(certificate, LIBRARY / before.set / f"{before.name}.certificate.npz")
    status = "optimal" if 1 - before.bound_s / found.time_s <= PROVED else found.status
    return replace(found, bound_s=before.bound_s, bound_by=before.bound_by, status=status)


def _paper(name: str) -> BestKnown:
    """The study's `best`, which needs no trace; for batches `static` beside the ideal."""
    instance = kv.read_instance(name)
    if not instance.physical:
        return _row("paper", name, kv.simulate(instance, "best"), "simulate {} --policy best")
    static, _ = share_bound([kv.simulate(instance, "static"), kv.simulate(instance, "ideal")])
    return _row("paper", name, static, "compare {} --methods static,ideal")


def _row(set_name: str, name: str, result: Result, command: str = "", line: str = "") -> BestKnown:
    assert result.time_s is not None
    proved = result.gap is not None and result.gap <= PROVED
    bound, line = result.bound, line or f"kvbound {command.format(name)}"
    status, by = "optimal" if proved else str(result.status), bound.method or ""
    return BestKnown(set_name, name, result.time_s, bound.time_s, status, result.method, by, line)


FIND: dict[str, Callable[[str], BestKnown]] = {
    "tiny": _tiny, "small": _small, "real": _real, "batch": _batch, "tiers": _tiers, "weights": _weights,
    "paper": _paper,
}  # fmt: skip

if __name__ == "__main__":
    main(sys.argv[1:])
