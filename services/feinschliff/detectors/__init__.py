"""What may be found in a text: personal data, secrets, injections, words, patterns; whole or while it grows."""
