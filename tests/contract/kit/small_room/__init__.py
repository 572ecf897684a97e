"""A room's storage for these tests: two tables and three migrations."""
