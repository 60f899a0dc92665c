"""Attention of trained models, recorded as traces."""
