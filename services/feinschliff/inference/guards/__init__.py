"""Checks of what goes into a model and what comes out: `guard.py` has what they are, `reading.py` how they read."""
