"""Run a job in a thread in parallel with other work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from threading import Event
from typing import TypeAlias

from kvbound.progress import Progress, silent

Job: TypeAlias = Callable[[Progress], None]
WAIT_S = 0.2
"""Longest wait in one piece, in seconds."""


@contextmanager
def in_background(job: Job | None, progress: Progress) -> Iterator[Callable[[], None]]:
    """Run a job in a thread in parallel with the block, and yield a function that waits for it.

    The job reports progress only while the block waits for it. It ends with the block at the latest: its next
    report of progress then raises an exception in its thread.
    """
    if job is None:
        yield lambda: None
        return
    stopped = Event()
    forward: Progress = silent

    def report(done: float, total: float, note: str = "") -> None:
        if stopped.is_set():
            raise _StoppedError
        forward(done, total, note)

    with futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(job, report)

        def wait() -> None:
            nonlocal forward
            forward = progress
            # an interrupt that arrives just before a wait is noticed at its end
            while not futures.wait([running], timeout=WAIT_S).done:
                pass
            running.result()

        try:
            yield wait
        finally:
            stopped.set()


class _StoppedError(Exception):
    """The block has ended without the job."""
