"""Columns of a two-tier schedule's counts; see `kvbound.bitsets.two_tier.TwoTierSchedule`."""

from __future__ import annotations

HITS, UP, UNREAD, BORN, HELD = range(5)
"""Reads served by tier 0; items written into tier 0, and how many of these were promoted without being read
or born there; items in tier 0 after the slot."""
