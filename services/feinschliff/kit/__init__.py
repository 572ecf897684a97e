"""What every service needs and no domain knows: settings, errors, server, client, database, metrics."""
