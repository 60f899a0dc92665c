"""A KV cache whose tokens are stored in number formats, K and V apart, by age or position."""

from kvbound.accuracy.cache.attention import attention
from kvbound.accuracy.cache.setting import Setting, parse
from kvbound.accuracy.cache.sides import Side, Zone

__all__ = ["Setting", "Side", "Zone", "attention", "parse"]
