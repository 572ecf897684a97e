"""What grades say: intervals, paired tests, many comparisons at once; all pure."""
