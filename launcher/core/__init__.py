"""What every package may use: types, errors, files, HTTP, the console."""
