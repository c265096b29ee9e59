"""Runs the commands of other harnesses against the endpoint, and keeps what they end with."""
