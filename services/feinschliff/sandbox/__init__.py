"""Runs Python that nobody vouches for: sealed, bounded, and never in the process of a service."""
