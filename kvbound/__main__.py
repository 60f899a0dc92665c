"""``python -m kvbound``."""

from kvbound.cli import script

if __name__ == "__main__":
    script()
