"""Published studies, reproduced: each one as data, and what runs its cells."""

from __future__ import annotations

from typing import Final

STUDIES: Final = ("fang2025",)
"""Names that `kvbound reproduce` knows."""
