"""The independent checker: replays and costs schedules, and recomputes the bounds of certificates and trees.

It shares no code with the rest of kvbound: it uses only NumPy and the standard library, and has its own
replay, slot times and SHA-256. Its inputs are the expanded instance, the packed read sets and the file to
check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvbound.checker import certificate, fang2025, physical, residency, tree
from kvbound.checker.arrays import Source, load, text
from kvbound.checker.certificate import check_certificate
from kvbound.checker.fang2025 import check_fang2025
from kvbound.checker.inputs import Rows
from kvbound.checker.physical import check_schedule
from kvbound.checker.report import Refused, Report
from kvbound.checker.residency import check_residency
from kvbound.checker.result import check_result
from kvbound.checker.result_form import Malformed
from kvbound.checker.tree import check_tree

__all__ = [
    "Malformed", "Report", "check", "check_certificate", "check_fang2025", "check_residency", "check_result",
    "check_schedule", "check_tree",
]  # fmt: skip

CHECKERS = {
    certificate.SCHEMA: check_certificate,
    fang2025.SCHEMA: check_fang2025,
    physical.SCHEMA: check_schedule,
    residency.SCHEMA: check_residency,
    tree.SCHEMA: check_tree,
}
"""The check of each ``schema``."""


def check(expanded: Mapping[str, Any], rows: Rows, file: Source, *, claimed_s: float | None = None) -> Report:
    """Check a file of any known schema against its instance.

    Parameters
    ----------
    expanded
        The expanded instance, as ``kvbound instance expand`` writes it.
    rows
        Per layer the packed read sets, uint8 ``(steps, 8 * ceil(tokens / 64))``; memory maps are allowed.
        None where the expanded instance says that reads are dense: they follow from births and ends then.
    file
        An npz file, or its arrays.
    claimed_s
        A claimed decode time in seconds, which must match to 1e-9 relative, or a claimed bound, which must
        not exceed what the certificate proves.
    """
    try:
        arrays = load(file)
        schema = text(arrays, "schema")
        if schema not in CHECKERS:
            raise Refused(f"schema is {schema!r}, expected one of {', '.join(CHECKERS)}")
    except Refused as refusal:
        return Report.refused("unknown", refusal, [], None)
    return CHECKERS[schema](expanded, rows, arrays, claimed_s=claimed_s)
