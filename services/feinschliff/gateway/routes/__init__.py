"""One file a resource: each translates a request, calls a service, and translates its answer."""
