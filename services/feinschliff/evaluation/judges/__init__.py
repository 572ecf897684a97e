"""Judges held to people's judgement, and which of them may gate."""
