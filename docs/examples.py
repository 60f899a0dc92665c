"""Two custom policies, as the command line takes them: ``--methods lru,examples.py:EveryOther``."""

import numpy as np


class EveryOther:
    """Keep tokens with an even id, the younger the better."""

    def step(self, slot):
        """Return a score for each past token and for each new one."""
        ids = np.arange(slot.tokens + slot.births)
        return np.where(ids % 2 == 0, ids, -1.0)


class Window:
    """Keep what this slot reads, and of the rest the youngest."""

    def __init__(self, width=16):
        """Take how many of the youngest tokens count as read."""
        self.width = width

    def step(self, slot):
        """Return a score for each past token and for each new one."""
        age = slot.tokens - np.arange(slot.tokens + slot.births)
        return slot.read_now + (age < self.width) - age / (slot.tokens + slot.births)
