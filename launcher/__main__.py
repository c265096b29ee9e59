"""``python -m launcher`` is the same program as ``launch.py``."""

from launcher.entry import main

if __name__ == "__main__":
    main()
