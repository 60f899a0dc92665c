"""Time lower bounds by Lagrangian relaxation, and their certificates."""
