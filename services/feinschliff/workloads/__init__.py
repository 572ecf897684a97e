"""Programs that run beside the services: started by name, observed, stopped, forgotten."""
