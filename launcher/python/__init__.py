"""The launcher in Python: start runs and servers, and read and compare what they left."""
