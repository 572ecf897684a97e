"""How the tables of ingestion came to be; append-only."""
