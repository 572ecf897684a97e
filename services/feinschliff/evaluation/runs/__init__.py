"""Runs of an eval: made, worked on, stored, read and compared."""
