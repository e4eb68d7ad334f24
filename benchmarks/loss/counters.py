"""What a network interface has sent: the same figure for every system, whatever it is made of."""

from __future__ import annotations

from pathlib import Path


def sent_bytes(interface: str, table: str | None = None) -> int:
    """Bytes that ``interface`` has sent, heads of all layers included. Raises `ValueError` where there is no such interface."""
    for line in (table or Path("/proc/net/dev").read_text()).splitlines():
        name, colon, figures = line.partition(":")
        if colon and name.strip() == interface:
            return int(figures.split()[8])
    raise ValueError(f"there is no interface {interface}")
