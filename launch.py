"""The program that users type: ``python launch.py [group=option ...] [key=value ...]``."""

from launcher.cli.main import main

if __name__ == "__main__":
    main()
