"""Adapters: request and response interceptors around every call of the endpoint."""
