"""Optima and linear programs of tiny instances in fractions, without any tolerance."""
