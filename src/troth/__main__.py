"""``python -m troth`` is the command ``troth``."""

from troth.cli.main import main

if __name__ == "__main__":
    main()
