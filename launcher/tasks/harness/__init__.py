"""Tasks that another evaluation harness asks: its command, and the reader of its result file."""
