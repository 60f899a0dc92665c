"""The accounting of the four-tier study of 2026 on adaptive KV placement, in closed form over the steps.

The whole KV is in one tier, the fastest that holds it, and moves as a whole when it has outgrown that tier.
"""

from kvbound.tiered2026.setting import Place, Setting
from kvbound.tiered2026.steps import SPREAD, Crossing, Run, adaptive_spread, fill_first, spill_all

__all__ = ["SPREAD", "Crossing", "Place", "Run", "Setting", "adaptive_spread", "fill_first", "spill_all"]
