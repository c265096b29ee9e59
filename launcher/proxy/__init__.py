"""The adapters as an HTTP proxy in front of an endpoint, for any other harness."""
