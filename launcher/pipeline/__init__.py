"""One run: its configuration, its six steps, its servers and its record."""
