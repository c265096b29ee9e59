"""``python -m launcher`` is the same program as ``launch.py``."""

from launcher.cli.main import main

if __name__ == "__main__":
    main()
