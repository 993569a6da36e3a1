"""``python -m timberkit``: the same as the command ``timberkit``."""

import sys


def main() -> None:
    """Run the command line, or say where it does not run: its modules need what Windows lacks."""
    if sys.platform == "win32":
        print(
            "error: timberkit: found Windows, expected Linux; run it under WSL 2"
            " (https://learn.microsoft.com/windows/wsl), in a container, or on another machine",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        from timberkit.cli import main as run

        run()
    except KeyboardInterrupt:  # while the modules are loaded: nothing has begun
        sys.exit(4)


if __name__ == "__main__":
    main()
