"""One file for each objective."""
