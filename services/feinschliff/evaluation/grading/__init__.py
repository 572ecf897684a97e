"""All graders of one answer: those that decide alone, and what the others ask outside."""
