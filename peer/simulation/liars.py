"""Liars: simulated peers that break the rules of the protocol, by strategy and by chance.

A liar is a whole `Peer` between lying ports. It sees all that an honest peer would send and receive, and at
every message, answer and piece of work a draw from the seed decides what becomes of it (`strategies`): so it
keeps step with the run, gets into its averages, and lies well.

    liars            one liar: its ports, its life, and what it says without an occasion
    mind             what it knows, which deed it chooses, the bytes of its lies
    strategies       which deed at which opportunity: a table, and chaos
    lies             the grammar: well-formed messages that are not true, of any kind
    forgery          states that no group has decided, with heads, records and chunks that fit
    faces            the second face of its work: other parts and results for one half of the peers
    lying_transport  where the deeds are done: what leaves, what comes, what is asked

What is lied about, complete (a test compares it with the code):

    messages         ready, proposal, vote, decline, commit, receipt, takeover, holdings, ballot
    other frames     head, progress, contact, manifest
    bulk items       part, result, copy, update
    routes           mail, bulk, item, hello, manifest, ping, dial-back, progress, contact, index, chunk,
                     offer, record, anchor, origin, evidence

A liar signs with its own key, and cannot break TLS: others see who sends what. It cannot act for the founder,
who never lies.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from swarm.machine import Arithmetic
from swarm.transport import Transport

from ..network.membership import NetworkPorts
from ..peer import Peer
from ..ports import Ports
from ..sync.position import Position
from ..training.state import SharedState
from .faces import LyingArithmetic
from .lying_transport import LyingDirectory, LyingTransport
from .mind import Mind

PAUSES = (0.2, 1.0, 4.0)
"""Mean virtual seconds between two lies without an occasion, of which each liar draws one."""


class Liar:
    """One incarnation of a lying peer."""

    def __init__(self, mind: Mind, transport: Transport) -> None:
        self._mind = mind
        self._pause = mind.chance.choice(PAUSES)
        self.transport = LyingTransport(transport, mind)
        """For the liar's honest half."""

    def ports(self, ports: Ports) -> Ports:
        """The ports of its honest half: ``ports``, but lying."""
        directory = LyingDirectory(ports.network.directory, self._mind)
        network: NetworkPorts = replace(ports.network, transport=self.transport, directory=directory)
        arithmetic: Arithmetic = LyingArithmetic(
            ports.arithmetic, self._mind.draw, self._mind.chance, self._mind.faces
        )
        return replace(ports, network=network, arithmetic=arithmetic)

    async def live(self, honest_half: Peer) -> None:
        """Lie until cancelled, also after the honest half is done or has given up."""
        honest_half.subscribe(self._observe)
        async with asyncio.TaskGroup() as tasks:
            self.transport.tasks = tasks
            tasks.create_task(self._speak_up(), name="speaks up")
            try:
                await honest_half.run()
            except Exception as error:  # noqa: BLE001 - its own lies may bring down the honest half
                self._mind.temper.tell(f"gave up: {error!r}")
            await asyncio.get_running_loop().create_future()

    def _observe(self, position: Position, state: SharedState) -> None:
        self._mind.forger.observe(position, state)
        self._mind.temper.turn()

    async def _speak_up(self) -> None:
        """For ever: now and then a lie without an occasion, if the liar is in the mood."""
        while True:
            await asyncio.sleep(self._mind.chance.expovariate(1 / self._pause))
            lie = self._mind.initiative() if self._mind.temper.is_restless else None
            if lie:
                receivers, request = lie
                for receiver in receivers:
                    self.transport.tell(receiver, request)
