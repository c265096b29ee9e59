"""Conversion of a checkpoint of any layout into another one, tensor by tensor."""
