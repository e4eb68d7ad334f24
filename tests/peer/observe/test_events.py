"""What a peer says of itself while it fetches text and model: at every step for the screens, seldom for the log."""

from __future__ import annotations

import asyncio
from typing import Any

from peer.chunks.download import DownloadProgress
from peer.observe.events import FETCHING_SECONDS, Events
from peer.observe.metrics import Metrics
from peer.observe.reporter import told
from swarm.simulation.clock import running_loop, simulate
from tests.peer.company import MANIFEST, key

ME = key(1).peer_id


class Notes:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def round_finished(self, report: object) -> None:
        """Not told here."""

    def event(self, name: str, /, **fields: object) -> None:
        """Keep it."""
        self.events.append({"event": name, **fields})


def test_a_download_is_told_now_and_then_and_at_its_end() -> None:
    async def story() -> None:
        notes, metrics = Notes(), Metrics(MANIFEST, ME, "", "1", 9000, running_loop().time)
        events = Events(metrics, notes, None, ME)  # type: ignore[arg-type]
        for chunks in range(41):
            events.progress("model", DownloadProgress(chunks, 40, chunks << 20, 2.5e6, 3))
            assert metrics.fetching.here == chunks
            await asyncio.sleep(FETCHING_SECONDS / 10)
        counts = [event["chunks"] for event in notes.events]
        assert counts[0] == 1, "the first sign of life"
        assert counts[-1] == 40
        assert 4 <= len(counts) <= 6
        assert notes.events[-1] == {
            "event": "fetching",
            "what": "model",
            "chunks": 40,
            "of": 40,
            "bytes_per_second": 2_500_000,
        }
        line = told("fetching", {name: value for name, value in notes.events[-1].items() if name != "event"})
        assert line == "fetching model  chunks 40  of 40  at 2.5 MB/s"

    simulate(story())
