"""Grade one answer: for evaluation, as a reward, and as a filter."""
