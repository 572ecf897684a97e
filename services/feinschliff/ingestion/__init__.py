"""Data comes in: datasets, their immutable versions, and the checks that every row passes."""
