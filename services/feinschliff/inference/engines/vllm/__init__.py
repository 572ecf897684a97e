"""A vLLM server behind the engine's protocol: one of our own, started here, or one that runs elsewhere."""
