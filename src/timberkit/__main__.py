"""``python -m timberkit``: the same as the command ``timberkit``."""

from timberkit.cli import main

if __name__ == "__main__":
    main()
