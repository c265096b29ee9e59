"""What every server of ours must do, whatever backend and engine are behind it."""
