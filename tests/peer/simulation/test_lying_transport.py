"""What a liar's deeds do to the messages between its honest half and the network."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from averaging.messages import Decline, Holdings, Ready
from peer.simulation.lying_transport import LyingDirectory, LyingTransport
from peer.simulation.mind import Mind
from peer.simulation.strategies import STRATEGIES, Deed, Strategy, Temper, always
from swarm.errors import Busy, Refused, TooLate
from swarm.membership.progress import Progress
from swarm.simulation.clock import simulate
from swarm.transport import Call, Request, Route
from swarm.wire import Message, Signed, Stamp, open_frame, seal
from tests.peer.company import MANIFEST, RUN, TEXT, Company, key, progress_of, soon

ROOT = bytes(range(32))
ME = key(1)
OTHER = key(2)
READY = Ready(ROOT, uplink=5)


def frame(message: Message, number: int) -> bytes:
    return seal(key(number), message, Stamp(RUN, 3))


@dataclass
class Stage:
    """A liar, and an honest peer that notes what comes."""

    company: Company = field(default_factory=Company)
    came: list[Signed[Message]] = field(default_factory=list)
    passed_on: list[bytes] = field(default_factory=list)
    """What the liar's honest half has seen."""

    def liar(
        self, strategy: Strategy, monkeypatch: pytest.MonkeyPatch, tasks: asyncio.TaskGroup
    ) -> LyingTransport:
        monkeypatch.setitem(STRATEGIES, "as the test says", strategy)  # type: ignore[arg-type]
        temper = Temper(random.Random(0), "as the test says", [].append)
        everybody = [key(number).peer_id for number in range(4)]
        transport = LyingTransport(self.company.transport(1), Mind(MANIFEST, TEXT, ME, everybody, temper))
        transport.tasks = tasks
        transport.serve(Route("mail", self._hear))
        transport.serve(Route("offer", self._answer))
        self.honest = self.company.transport(2)
        self.honest.serve(Route("mail", self._note))
        return transport

    async def _hear(self, call: Call) -> bytes:
        self.passed_on.append(bytes(call.body))
        return b""

    async def _answer(self, call: Call) -> bytes:
        return b"the truth"

    async def _note(self, call: Call) -> bytes:
        self.came.append(open_frame(bytes(call.body), Ready, Decline, Holdings, run=RUN))
        return b""


async def say(strategy: Strategy, monkeypatch: pytest.MonkeyPatch, message: Message = READY) -> list[Message]:
    """What an honest peer hears where the liar's honest half says ``message``."""
    stage = Stage()
    async with asyncio.TaskGroup() as tasks:
        liar = stage.liar(strategy, monkeypatch, tasks)
        await liar.request(OTHER.peer_id, Request("mail", frame(message, 1), limit=0), deadline=soon())
    assert all(signed.signer == ME.peer_id for signed in stage.came)
    return [signed.message for signed in stage.came]


async def tell(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """What becomes of a `Ready` that an honest peer sends to the liar."""
    stage = Stage()
    async with asyncio.TaskGroup() as tasks:
        stage.liar(strategy, monkeypatch, tasks)
        request = Request("mail", frame(READY, 2), limit=0)
        await stage.honest.request(ME.peer_id, request, deadline=soon())
    return stage


async def ask(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What the liar answers a peer that asks."""
    stage = Stage()
    async with asyncio.TaskGroup() as tasks:
        stage.liar(strategy, monkeypatch, tasks)
        return await stage.honest.request(ME.peer_id, Request("offer"), deadline=soon())


def test_an_honest_liar_says_and_answers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(say({}, monkeypatch)) == [READY]
    assert simulate(tell({}, monkeypatch)).passed_on == [frame(READY, 2)]
    assert simulate(ask({}, monkeypatch)) == b"the truth"


def test_silence_leaves_the_honest_half_in_the_belief_that_it_has_spoken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert simulate(say({"send": always(Deed.SILENCE)}, monkeypatch)) == []


def test_a_double_says_two_things_to_one_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = simulate(say({"send ready": always(Deed.DOUBLE)}, monkeypatch))
    assert len(heard) == 2
    assert READY in heard


@pytest.mark.parametrize("deed", [Deed.VARY, Deed.BOAST])
def test_a_lie_takes_the_place_of_the_truth(deed: Deed, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = simulate(say({"send ready": always(deed)}, monkeypatch))
    assert len(heard) == 1
    assert isinstance(heard[0], Ready)


def test_only_what_the_strategy_names_is_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    holdings = Holdings((ROOT,))
    assert simulate(say({"send ready": always(Deed.SILENCE)}, monkeypatch, holdings)) == [holdings]


def test_what_is_swallowed_does_not_reach_the_honest_half(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(tell({"hear ready": always(Deed.SILENCE)}, monkeypatch)).passed_on == []


def test_a_decline_comes_in_place_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = simulate(tell({"hear ready": always(Deed.DECLINE)}, monkeypatch))
    assert stage.passed_on == []
    assert [type(signed.message) for signed in stage.came] == [Decline]


def test_an_echo_says_what_the_sender_said_under_the_liar_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = simulate(tell({"hear ready": always(Deed.ECHO)}, monkeypatch))
    assert len(stage.passed_on) == 1
    assert [signed.message for signed in stage.came] == [READY]


def test_a_refusal_and_silence_give_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        simulate(ask({"answer": always(Deed.REFUSE)}, monkeypatch))
    assert isinstance(caught.value.exceptions[0], Busy | Refused)
    with pytest.raises(BaseExceptionGroup) as caught:
        simulate(ask({"answer offer": always(Deed.SILENCE)}, monkeypatch))
    assert isinstance(caught.value.exceptions[0], TooLate)


def test_an_answer_may_be_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(ask({"answer": always(Deed.VARY)}, monkeypatch)) != b"the truth"


def test_without_an_owner_for_its_tasks_a_liar_sends_nothing_on_the_side() -> None:
    async def main() -> None:
        stage = Stage()
        temper = Temper(random.Random(0), "honest", [].append)
        transport = LyingTransport(stage.company.transport(1), Mind(MANIFEST, TEXT, ME, [], temper))
        transport.tell(OTHER.peer_id, Request("mail", b"x"))
        await asyncio.sleep(1.0)

    leftovers: list[str] = []
    simulate(main(), leftovers=leftovers)
    assert leftovers == []


@pytest.mark.parametrize(
    ("deed", "is_there"), [(Deed.TRUTH, True), (Deed.SILENCE, False), (Deed.BOAST, True)]
)
def test_the_directory_gets_the_truth_a_lie_or_nothing(
    deed: Deed, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> list[Signed[Progress]]:
        company = Company()
        monkeypatch.setitem(STRATEGIES, "as the test says", {"publish": always(deed)})  # type: ignore[arg-type]
        temper = Temper(random.Random(0), "as the test says", [].append)
        directory = LyingDirectory(company.directory(1), Mind(MANIFEST, TEXT, ME, [], temper))
        assert await directory.put("progress", progress_of(1), seconds=60.0, deadline=soon())
        return await directory.get("progress", Progress, deadline=soon())

    found = simulate(main())
    assert bool(found) is is_there
    assert all(signed.signer == ME.peer_id for signed in found)
    assert all(signed.message.tokens > 0 for signed in found) is (deed is not Deed.TRUTH)
