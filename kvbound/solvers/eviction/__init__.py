"""Balanced next-use eviction: which read to miss, with the reads to come in sight."""
