"""Blocks that two networks use unchanged."""
