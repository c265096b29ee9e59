"""Units of memory."""

GIB = 2**30
"""Bytes of one GiB, in which every amount of memory is counted."""
