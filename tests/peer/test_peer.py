"""Whole peers on a simulated network: they compose, train to the end of the run, and leave cleanly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from peer.config.run import RunSettings, manifest_of
from peer.network.membership import TOPIC, NetworkPorts
from peer.observe.reporter import RoundReport
from peer.peer import GOODBYE_SECONDS, LAST_SAVE_SECONDS, Peer
from peer.ports import LocalPeer, Ports
from peer.sync.catch_up import JOIN_PATIENCE
from peer.training.compute import Inline
from peer.training.jobs import Budget
from peer.training.state import state_root
from swarm.errors import NobodyThere
from swarm.membership.contacts import Contacts, seal_contact
from swarm.membership.progress import Progress
from swarm.simulation.clock import simulate
from swarm.simulation.directory import SharedRecords, SimulatedDirectory
from swarm.simulation.network import Link, SimulatedNetwork
from swarm.ticket import Address, Entry
from tests.peer.company import TEXT, key, soon

ROUNDS = 3
SETTINGS = RunSettings(name="a run", model="tiny", rounds=ROUNDS, max_steps=2, round_seconds=5.0)
MANIFEST = manifest_of(SETTINGS, TEXT.spec, key(0))
RUN = MANIFEST.run_id
STEP_SECONDS = 2.0


class Notes:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rounds: list[RoundReport] = []
        self.has_finished_a_round = asyncio.Event()

    def round_finished(self, report: RoundReport) -> None:
        """Note the round."""
        self.rounds.append(report)
        self.has_finished_a_round.set()

    def event(self, name: str, /, **fields: object) -> None:
        """Note the event."""
        self.events.append(name)


class Swarm:
    """A network, and the peers of a run on it; peer 0 is the founder, and has the text."""

    def __init__(self) -> None:
        self.network = SimulatedNetwork(1, Link(latency=0.01, jitter=0.0))
        self.records = SharedRecords(self.network, RUN, {TOPIC: Progress}, seed=1)
        self.notes: dict[int, Notes] = {}

    def peer(self, number: int, home: Path | None = None) -> Peer:
        """A peer whose ticket names the founder."""
        transport = self.network.attach(key(number).peer_id)
        address = Address(f"p{number}", 1)
        contact = seal_contact(key(number), RUN, (address,), 1)
        contacts = Contacts(RUN, (Entry(key(0).peer_id, Address("p0", 1)),))
        contacts.learn(contact)
        directory = SimulatedDirectory(self.records, key(number).peer_id)
        network = NetworkPorts(
            transport=transport, directory=directory, contacts=contacts, wall=lambda: 1000.0
        )
        self.notes[number] = Notes()
        ports = Ports(
            network=network,
            arithmetic=Inline(_seconds_of),
            budget=lambda seconds: Budget(int(seconds / STEP_SECONDS), lambda: False),
            event_sink=self.notes[number],
        )
        is_founder = number == 0
        me = LocalPeer(
            key=key(number),
            name=f"p{number}",
            version="1",
            contact=contact,
            home=home,
            corpus=TEXT if is_founder else None,
            founder=is_founder,
        )
        return Peer(MANIFEST, MANIFEST.seal(key(0)), me, ports)


def _seconds_of(job: Any) -> float:
    return STEP_SECONDS * getattr(job, "steps", 0)


def test_a_founder_that_stays_alone_trains_to_the_end_and_keeps_the_model(tmp_path: Path) -> None:
    async def main() -> None:
        swarm = Swarm()
        founder = swarm.peer(0, tmp_path)
        assert not founder.has_had_state
        assert founder.snapshot().health == "SYNCING"
        assert repr(founder) == "Peer(p0, round 0, starting)"
        await founder.run()
        assert founder.has_had_state
        assert founder.position.round == ROUNDS
        assert repr(founder) == f"Peer(p0, round {ROUNDS}, leaving)"
        snapshot = founder.snapshot()
        assert (snapshot.health, snapshot.round) == ("FINISHED", ROUNDS)
        assert snapshot.state_root == founder.position.state_root.hex()
        assert [report.round for report in swarm.notes[0].rounds] == [*range(ROUNDS)]

    leftovers: list[str] = []
    simulate(main(), leftovers=leftovers)
    assert leftovers == []
    assert (tmp_path / "model.safetensors").exists()
    assert list((tmp_path / "checkpoints").iterdir())


def test_a_newcomer_gets_text_and_model_from_the_founder_and_both_end_with_the_same_model() -> None:
    async def main() -> None:
        swarm = Swarm()
        founder = swarm.peer(0)
        newcomer = swarm.peer(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(founder.run())
            await asyncio.sleep(1.0)
            tasks.create_task(newcomer.run())
        assert founder.position.round == newcomer.position.round == ROUNDS
        assert founder.position.state_root == newcomer.position.state_root
        assert "synced" in swarm.notes[1].events
        assert {report.members for report in swarm.notes[1].rounds} == {2}

    simulate(main())


def test_a_watcher_hears_of_every_position_and_its_state() -> None:
    stood: list[tuple[int, bool]] = []

    async def main() -> None:
        founder = Swarm().peer(0)
        founder.subscribe(
            lambda position, state: stood.append((position.round, position.state_root == state_root(state)))
        )
        await founder.run()

    simulate(main())
    assert stood == [(round_, True) for round_ in range(ROUNDS + 1)]


def test_a_peer_that_is_told_to_leave_saves_says_goodbye_and_is_gone_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        swarm = Swarm()
        founder = swarm.peer(0, tmp_path)
        newcomer = swarm.peer(1)
        running = asyncio.create_task(founder.run())
        others = asyncio.create_task(newcomer.run())
        await swarm.notes[0].has_finished_a_round.wait()
        asked_at = soon(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert soon(0) - asked_at <= LAST_SAVE_SECONDS + GOODBYE_SECONDS
        assert not newcomer.membership.roster.is_present(key(0).peer_id, soon(0))
        others.cancel()
        with pytest.raises(asyncio.CancelledError):
            await others

    simulate(main())
    assert list((tmp_path / "checkpoints").iterdir())


def test_a_newcomer_that_finds_nobody_ends_with_one_error_and_its_advice() -> None:
    async def main() -> None:
        newcomer = Swarm().peer(1)
        with pytest.raises(NobodyThere) as refused:
            await newcomer.run()
        assert refused.value.advice
        assert not newcomer.has_had_state
        assert soon(0) <= JOIN_PATIENCE + LAST_SAVE_SECONDS

    simulate(main())
