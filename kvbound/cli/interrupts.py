"""Ctrl-C and termination signals: the command stops and saves the best result so far."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_ONCE_S = 1.0
"""Signals within this time after the first one count as the same."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let these signals raise KeyboardInterrupt in the block, once for several in quick succession."""
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
    """Defer these signals to the end of the block, for example while files are saved."""
    received: list[int] = []
    with _handled(lambda number, _: received.append(number)):
        yield
    if received:
        signal.raise_signal(received[0])


def ignore() -> None:
    """Ignore these signals from now on."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Install a handler for these signals, except those that are ignored, such as SIGHUP under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in handled:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in handled.items():
            signal.signal(number, old)
