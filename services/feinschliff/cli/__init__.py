"""The command line: a client of the same APIs as everyone, and `up`, which starts all on one machine."""
