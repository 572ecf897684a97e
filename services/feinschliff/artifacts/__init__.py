"""Objects in storage: one protocol, S3 and a folder behind it, and what makes a set of files real."""
