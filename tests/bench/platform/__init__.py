"""What the platform on one machine costs: time to be ready, memory at rest."""
