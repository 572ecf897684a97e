"""What runs inside a sandbox, beside the source that it runs; nothing outside imports it."""
