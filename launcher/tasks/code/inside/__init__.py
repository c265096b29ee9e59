"""What runs inside the sandbox: standard library only, because nothing else of the program is visible there."""
