"""Run a job in a thread beside other work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeAlias

from kvbound.progress import Progress, silent

Job: TypeAlias = Callable[[Progress], None]


@contextmanager
def beside(job: Job | None, progress: Progress) -> Iterator[Callable[[], None]]:
    """Run a job in a thread beside the block, and yield what waits for it.

    It ends with the block, finished or not: its progress, heard while somebody waits, stops it.
    """
    if job is None:
        yield lambda: None
        return
    over = Event()
    told: Progress = silent

    def report(done: float, total: float, note: str = "") -> None:
        if over.is_set():
            raise _StoppedError
        told(done, total, note)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(job, report)

        def finish() -> None:
            nonlocal told
            told = progress
            running.result()

        try:
            yield finish
        finally:
            over.set()


class _StoppedError(Exception):
    """Nobody waits for it any more."""
