"""What ingestion costs: time and memory."""
