"""Running a machine: where its commands go, until when, and what stays on the shelf afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch

from averaging.messages import Vote
from averaging.partition import plan
from averaging.reduce import Checked, CheckPart, CheckResult, EncodedPart, Reduced, ReducePart, Share
from averaging.runner import MachineRunner, Ports, shelved
from averaging.whole_update import CheckUpdate, CombineUpdates, EncodeUpdate
from swarm.machine import Command, Compute, Computed, Event, Fetch, Finish, Report, Send, Ship
from swarm.manifest import Codec
from swarm.simulation.clock import simulate
from swarm.transport.post import Inbox
from swarm.wire import NO_GROUP, Stamp
from tests.averaging.averagers import Slow
from tests.averaging.members import RUN, peer

ME = peer(0)
OTHER = peer(1)
GROUP = bytes([9]) * 16
STAMP = Stamp(RUN, 3, GROUP)
DEADLINE = 20.0
(PART,) = plan(8, (ME,))
HASH = bytes([1]) * 32
VECTOR_P = torch.arange(8, dtype=torch.float32)
ENCODE = EncodeUpdate(VECTOR_P, PART, Codec.FP32, 1)


class FakePost:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.did: list[tuple[Any, ...]] = []
        self.shelf: dict[str, Any] = {}
        self.inbox = Inbox()

    def open(self, topic: tuple[int, bytes], expect: object = None) -> Inbox:
        self.did.append(("open", topic, expect))
        return self.inbox

    def close(self, topic: tuple[int, bytes]) -> None:
        self.did.append(("close", topic))

    def send(self, to: object, message: object, stamp: Stamp, *, deadline: float, failures: Inbox) -> None:
        assert failures is self.inbox
        self.did.append(("send", to, message, stamp, deadline))

    def ship(self, to: object, group: bytes, item: str, payload: object, **more: Any) -> None:
        assert more["failures"] is self.inbox
        self.did.append(("ship", to, group, item, payload, more["deadline"]))

    def fetch(self, source: object, item: str, name: str, length: int, **more: Any) -> None:
        assert more["inbox"] is self.inbox
        self.did.append(("fetch", source, item, name, length, more["deadline"]))


class Script:
    """A machine that gives these commands, waits for so many results, and ends with them."""

    def __init__(self, commands: Sequence[Command], results: int = 0) -> None:
        self._commands = commands
        self._awaited = results
        self._results: list[Computed] = []

    def start(self, now: float) -> Iterable[Command]:
        yield from self._commands
        if not self._awaited:
            yield Finish(self._results)

    def handle(self, event: Event, now: float) -> Iterable[Command]:
        if isinstance(event, Computed):
            self._results.append(event)
        if len(self._results) == self._awaited:
            yield Finish(self._results)


def run(
    script: Script, *, post: FakePost | None = None, expect: Any = None, is_brief: bool = False
) -> tuple[FakePost, Slow, list[Report], list[Computed]]:
    """Run the script to its end."""
    the_post: Any = post or FakePost()
    arithmetic = Slow()
    reports: list[Report] = []

    async def scene() -> list[Computed]:
        async with asyncio.TaskGroup() as tasks:
            runner = MachineRunner(Ports(the_post, arithmetic, tasks, reports.append))
            found: list[Computed] = await runner.run(
                script, STAMP, DEADLINE, expect=expect, is_brief=is_brief
            )
            return found

    return the_post, arithmetic, reports, simulate(scene())


def expect(sender: object, item: str) -> int:
    return 0


def test_messages_are_sent_under_the_stamp_of_the_machine_unless_they_name_another_group() -> None:
    other_group = bytes([4]) * 16
    post, *_ = run(Script([Send((OTHER,), Vote()), Send((OTHER,), Vote(), other_group)]))
    assert post.did == [
        ("open", (3, GROUP), None),
        ("send", (OTHER,), Vote(), STAMP, DEADLINE),
        ("send", (OTHER,), Vote(), Stamp(RUN, 3, other_group), DEADLINE),
        ("close", (3, GROUP)),
    ]
    assert GROUP != NO_GROUP


def test_bulk_items_go_out_until_the_deadline_and_a_fetch_leaves_half_of_the_time_for_the_next_holder() -> (
    None
):
    item = f"item.2.{HASH.hex()}"
    post, *_ = run(Script([Ship(OTHER, "part.0.2", b"bytes"), Fetch(OTHER, item, 99)]), expect=expect)
    assert post.did[0] == ("open", (3, GROUP), expect)
    assert post.did[1] == ("ship", OTHER, GROUP, "part.0.2", b"bytes", DEADLINE)
    assert post.did[2] == ("fetch", OTHER, item, HASH.hex(), 99, DEADLINE / 2)


def test_reports_are_passed_on() -> None:
    report = Report("bad-part", "left out", OTHER)
    assert run(Script([report]))[2] == [report]


def test_the_answer_of_a_job_comes_back_as_an_event() -> None:
    *_, results = run(Script([Compute(ENCODE)], results=1), expect=expect)
    (computed,) = results
    assert computed.job == ENCODE
    assert computed.result == ENCODE.run()


@pytest.mark.parametrize("is_brief", [True, False])
def test_jobs_are_brief_if_the_update_is_short_except_the_sum_of_whole_updates(is_brief: bool) -> None:
    blob = ENCODE.run()[0].payload
    script = Script([Compute(ENCODE), Compute(CombineUpdates((blob,), PART))], results=2)
    _, arithmetic, _, _ = run(script, expect=expect, is_brief=is_brief)
    assert arithmetic.jobs[is_brief] >= {"EncodeUpdate"}
    assert "CombineUpdates" in arithmetic.jobs[False]
    assert "CombineUpdates" not in arithmetic.jobs[True]


def test_after_a_round_only_its_own_items_stay_on_the_shelf() -> None:
    post = FakePost()
    post.shelf = {"old": b"of an earlier round"}
    run(Script([Compute(ENCODE)], results=1), post=post, expect=expect)
    (mine,) = ENCODE.run()
    assert post.shelf == {mine.hash.hex(): mine.payload}


def test_forming_a_group_leaves_the_shelf_alone() -> None:
    """Members that missed an item of the last round may still fetch it."""
    post = FakePost()
    post.shelf = {"old": b"of the last round"}
    run(Script([]), post=post)
    assert post.shelf == {"old": b"of the last round"}


def test_the_inbox_is_closed_after_an_error_as_well() -> None:
    class Broken(Script):
        def start(self, now: float) -> Iterable[Command]:
            raise ZeroDivisionError

    post = FakePost()
    with pytest.raises(ExceptionGroup) as found:
        run(Broken([]), post=post)
    assert found.group_contains(ZeroDivisionError)
    assert post.did[-1] == ("close", (3, GROUP))


# --- what goes on the shelf ---------------------------------------------------------------------------------

SHARES = (Share(bytes(32), Codec.FP32, 1.0),)
MINE = EncodedPart(b"blob", HASH, 1.0, None)
CHECK_RESULT = CheckResult(PART, b"result", HASH, Codec.FP32)
CHECK_UPDATE = CheckUpdate(OTHER, 0, PART, b"update", HASH, Codec.FP32)


@pytest.mark.parametrize(
    ("job", "result", "found"),
    [
        (ReducePart(PART, SHARES, Codec.FP32), Reduced(b"average", HASH), (HASH, b"average")),
        (ENCODE, (MINE,), (HASH, b"blob")),
        (CHECK_RESULT, Checked(OTHER, 0, True), (HASH, b"result")),
        (CHECK_RESULT, Checked(OTHER, 0, False, "another hash"), None),
        (CHECK_UPDATE, Checked(OTHER, 0, True), (HASH, b"update")),
        (CHECK_UPDATE, Checked(OTHER, 0, False, "another hash"), None),
        (CheckPart(OTHER, PART, b"part", HASH, 1.0, Codec.FP32), Checked(OTHER, 0, True), None),
        (CombineUpdates((), PART), VECTOR_P, None),
    ],
    ids=[
        "our result",
        "our update",
        "a result",
        "a bad result",
        "an update",
        "a bad update",
        "a part",
        "the average",
    ],
)
def test_items_that_others_may_have_missed_go_on_the_shelf(
    job: object, result: object, found: tuple[bytes, bytes] | None
) -> None:
    assert shelved(job, result) == found
