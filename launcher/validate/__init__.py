"""Validation: a certificate that the endpoint answers correctly, before the first sample is sent."""
