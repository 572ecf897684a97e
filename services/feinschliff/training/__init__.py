"""What should run: jobs, their attempts, and the loop that makes both agree."""
