"""The published study's simulator (arXiv 2508.13231): pool, initial fills, rules and cost accounting.

There are two tiers, HBM and an external memory that holds a copy of everything, one KV pool shared by all
layers, and the study's own formula for the time of a slot. It differs from the package's cost model on
purpose, and serves only to reproduce published numbers.
"""

from kvbound.fang2025.accounting import Run
from kvbound.fang2025.setting import Setting
from kvbound.fang2025.simulate import POLICIES, simulate
from kvbound.fang2025.static import best

__all__ = ["POLICIES", "Run", "Setting", "best", "simulate"]
