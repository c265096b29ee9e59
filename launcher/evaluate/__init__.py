"""Evaluation: send every sample through the adapters to the endpoint, and keep what comes back."""
