"""Enumeration with slot times of its own: what the other solvers are compared with."""
