"""What grades cost."""
