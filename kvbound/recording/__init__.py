"""Traces from the recorded attention of trained models."""
