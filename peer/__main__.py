"""``python -m peer`` is ``swarm``."""

from .cli import main

if __name__ == "__main__":
    main()
