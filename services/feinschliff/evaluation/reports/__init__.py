"""Runs and comparisons for people."""
