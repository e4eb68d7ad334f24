"""Snapshots as a run makes them, for the tests of what people see.

``python -m tests.peer.dashboard.pictures`` redraws the golden frames.
"""

from __future__ import annotations

import math
import random
from datetime import UTC
from pathlib import Path

from peer.dashboard.picture import peer_called
from peer.dashboard.theme import Theme
from peer.dashboard.view import Look, view
from peer.observe.snapshot import LoggedEvent, PeerRow, Point, Snapshot

GOLDEN = Path(__file__).parents[2] / "golden"
NOW = 1_790_000_047.0

FRAMES = {
    "dashboard-120x34": (120, 34, Theme(), Look(zone=UTC)),
    "dashboard-110x30": (110, 30, Theme(), Look(zone=UTC)),
    "dashboard-80x24": (80, 24, Theme(), Look(zone=UTC)),
    "dashboard-80x24-ascii": (80, 24, Theme(ascii_only=True), Look(zone=UTC)),
    "dashboard-48x14": (48, 14, Theme(), Look(zone=UTC)),
    "dashboard-120x34-sample": (120, 34, Theme(), Look(zone=UTC, panel="sample")),
    "dashboard-80x24-invite": (80, 24, Theme(), Look(zone=UTC, panel="invite")),
    "dashboard-80x24-silent": (80, 24, Theme(), Look(zone=UTC, silent_for=12.0)),
    "dashboard-30x6": (30, 6, Theme(), Look(zone=UTC)),
}
"""Name of the golden file -> width, height, theme and look of the frame in it."""


def peer_of(name: str) -> str:
    """The id of the peer with this animal's name; of a peer that has given itself another name, some id."""
    try:
        return peer_called(name)
    except (ValueError, StopIteration):
        return name.ljust(52, "a")


def a_peer(name: str, state: str = "training", **fields: object) -> PeerRow:
    """A row of the table with plausible figures."""
    usual = {
        "device": "cuda",
        "round": 812,
        "tokens_per_second": 6000.0,
        "up": 2.2e6,
        "down": 2.1e6,
        "share": 0.194,
        "seen_seconds": 2.0,
    }
    known = {"peer": peer_of(name), "name": name, "state": state, "loss": 3.4}
    return PeerRow(**{**known, **usual, **fields})  # type: ignore[arg-type]


PEERS = (
    a_peer("heron-02c1", tokens_per_second=11.4e3, up=4.2e6, down=4.0e6, share=0.369, seen_seconds=1),
    a_peer(
        "otter-7f3a", device="cpu x 4", tokens_per_second=1.9e3, up=0.9e6, down=1.1e6, share=0.061, is_me=True
    ),
    a_peer("lynx-b9d0", device="mps"),
    a_peer("moth-55aa", "syncing", round=790, tokens_per_second=0, up=0, down=9.8e6, share=0, loss=0),
    a_peer("newt-1e07", "averaging", tokens_per_second=9.1e3, up=6.1e6, down=6.0e6, share=0.295),
    a_peer(
        "crow-8c4e",
        "slow",
        device="cpu x 8",
        round=811,
        tokens_per_second=2.5e3,
        up=3e5,
        down=4e5,
        share=0.081,
        seen_seconds=9,
    ),
    a_peer(
        "wasp-d00d", "banned", round=804, tokens_per_second=0, up=0, down=0, share=0, seen_seconds=41, loss=0
    ),
)

EVENTS = (
    LoggedEvent(time=NOW - 45, severity="info", text="moth-55aa joined, fetching the state from 2 peers"),
    LoggedEvent(
        time=NOW - 27,
        severity="error",
        text="wasp-d00d banned for 10 min: its update is 14 times the median norm (3 strikes)",
    ),
    LoggedEvent(
        time=NOW - 3,
        severity="warning",
        text="crow-8c4e is late by 9 s; its weight is kept, the deadline is in 20 s",
    ),
    LoggedEvent(
        time=NOW, severity="info", text="round 812 averaged with 5 of 6 peers in 0.3 s (31 MB, int8)"
    ),
)


def a_snapshot(**changes: object) -> Snapshot:
    """A healthy run of seven peers in round 812 of 2000, the same at each call."""
    chance = random.Random(3)
    losses = tuple(Point(r, 3.2 + 7.6 * math.exp(-r / 55) + chance.gauss(0, 0.04)) for r in range(1, 813))
    evaluations = tuple(
        Point(r, 1.62 + 1.9 * math.exp(-r / 90) + chance.gauss(0, 0.01)) for r in range(25, 813, 25)
    )
    traffic = [max(0.0, 2e6 * math.sin(step / 3) + chance.gauss(0, 2e5)) for step in range(120)]
    usual: dict[str, object] = {
        "run": "3fa91c" + "0" * 58,
        "run_name": "tiny-gpt-30m",
        "model": "gpt",
        "parameters": 30_100_000,
        "version": "0.1.0",
        "peer": PEERS[1].peer,
        "health": "HEALTHY",
        "uptime": 8040.0,
        "round": 812,
        "rounds": 2000,
        "tokens": 812 * 131_072,
        "seconds_left": 11_760.0,
        "phase": "training",
        "step": 73,
        "max_steps": 100,
        "phase_left": 8.0,
        "codec": "int8",
        "losses": losses,
        "evaluations": evaluations,
        "members": 5,
        "missing": 1,
        "average_seconds": 0.31,
        "round_seconds": 12.4,
        "bytes_up": 25_200_000_000,
        "bytes_down": 24_900_000_000,
        "up": tuple(traffic),
        "down": tuple(reversed(traffic)),
        "cpu": 2.0,
        "cores": 4,
        "memory": 2_400_000_000,
        "memory_total": 8_000_000_000,
        "given_seconds": 10_920.0,
        "given_tokens": 1_240_000,
        "given_rounds": 98,
        "state_root": "9b1f0c77aa" + "0" * 54,
        "peers": PEERS,
        "events": EVENTS,
        "sample": "Once upon a time there was a little otter who lived by the river. Every morning she swam "
        "to the old mill and asked the heron what the day would bring. The heron looked at the water for a "
        "long time, and then it said: rain.",
        "ticket": "swarm1" + "qpzry9x8gf2tvdw0s3jn54khce6mua7l" * 6,
        "checkpoint": "round-000800",
    }
    return Snapshot(**{**usual, **changes})  # type: ignore[arg-type]


def golden(name: str) -> str:
    """The frame called ``name``, as it is drawn now."""
    width, height, theme, look = FRAMES[name]
    return view(a_snapshot(), width, height, theme=theme, look=look).plain + "\n"


if __name__ == "__main__":
    for name in FRAMES:
        (GOLDEN / f"{name}.txt").write_text(golden(name), encoding="utf-8")
        print(f"{name}\n{golden(name)}")
