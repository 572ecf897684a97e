"""The search for a better prompt."""
