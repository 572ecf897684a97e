"""Long work that outlives its process: leases, what a failed call means, and when to stop waiting."""
