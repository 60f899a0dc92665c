"""Tests of measured accuracies."""
