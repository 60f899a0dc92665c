"""Make the trace of a synthetic workload: small ones in memory, others in the cache, layers in parallel.

Dense reads follow from births and ends, and are not made at all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvbound.progress import Progress, silent
from kvbound.trace import Trace, bits, write_header
from kvbound.trace.folder import write_experts
from kvbound.workloads import cache
from kvbound.workloads.synthetic import Synthetic

IN_MEMORY_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.1

Sink = Callable[[int, int, NDArray[np.uint8]], None]


def make(spec: Synthetic, progress: Progress | None = None, *, workers: int | None = None) -> Trace:
    """Return the trace that `spec` describes, from the cache if it has been made before.

    Parameters
    ----------
    workers
        Layers made at a time, by default the number of processors; the reads do not depend on it.

    Raises
    ------
    UsageError
        The trace exceeds the cache or the disk.
    """
    if spec.dense:
        return Trace.from_timeline(spec.timeline, spec.layers, source=spec.source())
    if spec.packed_bytes > IN_MEMORY_BYTES:
        return cache.fetch(spec, lambda folder: write_folder(spec, folder, progress, workers=workers))
    shape = (spec.decode_steps, bits.row_bytes(spec.tokens))
    rows = tuple(np.empty(shape, np.uint8) for _ in range(spec.layers))

    def keep(layer: int, start: int, block: NDArray[np.uint8]) -> None:
        rows[layer][start : start + len(block)] = block

    _run(spec, keep, progress, 1)
    return Trace(
        spec.prefill_tokens, rows, source=spec.source(), timeline=spec.timeline, experts=spec.experts
    )


def write_folder(
    spec: Synthetic, folder: Path, progress: Progress | None = None, *, workers: int | None = None
) -> None:
    """Write the trace directly to files, with only one block per worker in memory."""
    if spec.dense:
        write_header(folder, spec.layers, spec.timeline, spec.source(), dense=True)
        return
    shape = (spec.decode_steps, bits.row_bytes(spec.tokens))
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}

    def append(layer: int, start: int, block: NDArray[np.uint8]) -> None:
        with (folder / f"layer-{layer:03}.npy").open("ab") as file:
            if start == 0:
                np.lib.format.write_array_header_1_0(file, header)
            file.write(block.data)

    _run(spec, append, progress, workers or os.cpu_count() or 1)
    write_experts(spec.experts, folder)
    write_header(folder, spec.layers, spec.timeline, spec.source())


def _run(spec: Synthetic, sink: Sink, progress: Progress | None, workers: int) -> None:
    """Pass every layer's blocks to `sink(layer, first row, rows)`; stop soon when interrupted."""
    report = progress or silent
    stop = threading.Event()
    done = [0] * spec.layers

    def layer_blocks(layer: int) -> None:
        for rows in spec.packed_rows(layer):
            if stop.is_set():
                return
            sink(layer, done[layer], rows)
            done[layer] += len(rows)

    if workers == 1:
        for layer in range(spec.layers):
            layer_blocks(layer)
            report(sum(done), spec.layers * spec.decode_steps, "rows made")
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = {pool.submit(layer_blocks, layer) for layer in range(spec.layers)}
        try:
            while pending:
                finished, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                report(sum(done), spec.layers * spec.decode_steps, "rows made")
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
