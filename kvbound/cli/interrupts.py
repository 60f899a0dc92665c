"""Ctrl-C, and the signals that ask a process to end: the work stops, and the best so far is saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ONCE_S = 1.0
"""Signals that follow one within this time mean the same."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Have each of these signals raise KeyboardInterrupt in the block, several in quick succession once."""
    last = -_ONCE_S

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _ONCE_S:
            last = now
            raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put these signals off until the block, which saves something, is done."""
    heard: list[int] = []
    with _handled(lambda number, _: heard.append(number)):
        yield
    if heard:
        signal.raise_signal(heard[0])


def ignore() -> None:
    """Have the process ignore these signals from now on."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Install a handler for the signals that are not ignored, such as SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
