"""Servers side by side: their certificates and load tests, which is faster, and which checks differ."""
