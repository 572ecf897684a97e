"""What lies in storage and travels between processes: records, recipes, run files, manifests, reports."""
