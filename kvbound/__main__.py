"""``python -m kvbound``."""

import sys

from kvbound.cli import main

if __name__ == "__main__":
    sys.exit(main())
