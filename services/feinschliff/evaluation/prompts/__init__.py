"""Prompts: what a row is asked as, the examples before it, and versions that never change."""
