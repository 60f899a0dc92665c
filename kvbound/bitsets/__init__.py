"""Packed rows of bits: 64 tokens to a word."""
