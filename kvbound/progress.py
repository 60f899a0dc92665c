"""The callback by which long computations report progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[float, float, str], None]
"""Called as ``progress(done, total, note)``; may raise KeyboardInterrupt."""


def silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""
