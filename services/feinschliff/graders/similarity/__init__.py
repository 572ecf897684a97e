"""How alike two texts are, by the measures of machine translation and summarisation."""
