"""Tasks whose answers a judge scores: a model at a second endpoint."""
