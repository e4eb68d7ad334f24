"""A peer as a program on this computer: starting it, watching over it, looking at it."""
