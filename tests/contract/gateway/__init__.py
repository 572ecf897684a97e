"""The HTTP API, driven by the unmodified `openai` package over real sockets."""
