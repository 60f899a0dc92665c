"""The published study's own simulator (arXiv 2508.13231): pool, fills, rules and cost accounting.

Two tiers, HBM and an external memory that holds a copy of everything, one KV pool shared by all
layers, and per slot (step, layer) the study's own time formula. It differs from the package's cost
model on purpose: published numbers are reproduced with it, nothing else is computed by it.
"""

from kvbound.fang2025.accounting import Run
from kvbound.fang2025.setting import Setting
from kvbound.fang2025.simulate import POLICIES, simulate
from kvbound.fang2025.static import best

__all__ = ["POLICIES", "Run", "Setting", "best", "simulate"]
