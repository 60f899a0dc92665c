"""Schedules of any size from the prices of the Lagrangian bound."""
