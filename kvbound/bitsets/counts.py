"""Columns of the counts of a schedule between two tiers."""

from __future__ import annotations

HITS, UP, UNREAD, BORN, HELD = range(5)
"""Columns of the counts: reads served by tier 0; writes into it, and how many of these were of items not
read and of new tokens; items in it after the slot."""
