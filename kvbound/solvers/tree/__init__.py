"""Optima by proof: branch and bound whose leaves hold certificates."""
