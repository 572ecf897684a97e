"""The process that trains: one attempt of one job, from its runfile to a committed result."""
