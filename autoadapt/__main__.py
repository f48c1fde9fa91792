"""`python -m autoadapt`, and the command `autoadapt`."""

import sys


def main() -> None:
    """Run the command line; it is imported here, so that Ctrl-C is no traceback while that lasts either."""
    try:
        from autoadapt.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
