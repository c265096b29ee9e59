"""Monitoring: the endpoint's health over time."""
