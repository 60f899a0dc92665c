"""Simulated annealing of schedules."""
