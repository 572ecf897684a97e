"""What decides releases: gates, the measuring, and verdicts."""
