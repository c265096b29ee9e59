"""The tests, and the helpers that they import from here."""
