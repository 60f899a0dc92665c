"""Balanced next-use eviction: which reads should miss, given all future reads."""
