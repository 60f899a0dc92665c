"""Solvers that need the program of `kvbound.models`: exact, relaxed, exported."""
