"""Migrations of the small room."""
