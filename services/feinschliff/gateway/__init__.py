"""The door that speaks OpenAI's HTTP API: it keeps nothing, and asks the other services by gRPC."""
