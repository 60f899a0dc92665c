"""Balanced next-use eviction: which reads to miss, with the reads to come known."""
