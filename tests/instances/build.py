"""Write the instance library: ``python -m tests.instances.build [FOLDER]``, by default where it ships.

Every instance and trace of the seven sets comes from here, out of tests/data/attention and what stands in
tiny.py, small.py, real.py, batch.py, tiers.py, weights.py and paper.py. Run again, it writes the same bytes;
on a machine whose BLAS rounds otherwise, a recorded trace may choose otherwise between tokens of almost equal
attention.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvbound.instance_io import LIBRARY
from kvbound.trace import Trace, write_trace
from tests.instances import batch, paper, real, small, tiers, tiny, weights
from tests.instances.layout import write


def build(folder: Path) -> None:
    """Write the seven sets into folders of their own."""
    _write(folder / "tiny", tiny.documents(), {})
    _write(folder / "paper", paper.documents(), {})
    _write(folder / "weights", weights.documents(), {})
    for module in (small, real, batch, tiers):
        traces = module.traces()
        _write(folder / module.__name__.rpartition(".")[2], module.documents(traces), traces)


def _write(folder: Path, documents: Iterable[dict[str, Any]], traces: dict[str, Trace]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, trace in traces.items():
        write_trace(trace, folder / f"{name}.trace")
    for document in documents:
        write(document, folder / f"{document['name']}.json")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY)
