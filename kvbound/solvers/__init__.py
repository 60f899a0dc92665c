"""Solvers: an instance in, a Result out. `portfolio` decides which method runs, `registry` lists them."""

from kvbound.solvers.portfolio import Methods, choose, default_methods, run_all, solve
from kvbound.solvers.registry import METHODS

__all__ = ["METHODS", "Methods", "choose", "default_methods", "run_all", "solve"]
