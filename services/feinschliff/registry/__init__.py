"""What came out: models, their versions, the names that point at them, and where they come from."""
