"""Cheapest paths of blocks over tiers: the items' part of the dual."""
