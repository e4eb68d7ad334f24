"""Starting a peer: what takes long leaves the event loop free, and what is not possible is told."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from peer.app import node
from peer.config.run import RunSettings
from peer.observe.reporter import Reporter
from swarm.errors import NoData

pytestmark = pytest.mark.asyncio


async def test_the_text_is_read_beside_the_event_loop_so_that_ctrl_c_works_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[threading.Thread] = []

    def build(path: Path) -> None:
        readers.append(threading.current_thread())
        raise NoData("it is only read to see who reads it")

    monkeypatch.setattr(node.corpora, "build", build)
    options = node.Options(home=tmp_path / "home", listen=None, name="", reporter=Reporter(io.StringIO()))
    with pytest.raises(NoData, match="who reads it"):
        await node.found_run(RunSettings(), tmp_path, options)
    (reader,) = readers
    assert reader is not threading.main_thread()
