"""``python -m peer`` is ``swarm``."""

from .commands.cli import main

if __name__ == "__main__":
    main()
