"""Quantised weights of Hugging Face folders, read as the numbers that they stand for: one module per format."""
