"""Language models: bytes and weights of each layer, from the catalog or a published config.json."""

from kvbound.llm.model import Llm

__all__ = ["Llm"]
