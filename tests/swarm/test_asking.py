"""`ask_all` collects answers of many peers until a deadline; a bad peer costs its own answer only."""

import asyncio
import math

import pytest

from swarm.asking import Answers, ask_all
from swarm.errors import Malformed, Unreachable
from swarm.identity import PeerId
from swarm.simulation.clock import simulate

A = PeerId("a")
B = PeerId("b")
C = PeerId("c")
SILENT = math.inf


def asked(seconds: dict[PeerId, float], **options: float) -> tuple[Answers[str], float]:
    """Ask peers that answer after ``seconds`` of virtual time; the answers, and how long that took.

    A negative number means that the peer cannot be reached after so many seconds.
    """

    async def ask(peer: PeerId) -> str:
        if seconds[peer] == SILENT:
            await asyncio.Event().wait()
        await asyncio.sleep(abs(seconds[peer]))
        if seconds[peer] < 0:
            raise Unreachable(f"{peer} is gone")
        return f"from {peer}"

    async def main() -> tuple[Answers[str], float]:
        answers = await ask_all(seconds, ask, **options)  # type: ignore[arg-type]
        return answers, asyncio.get_running_loop().time()

    return simulate(main())


def test_all_answer_and_the_order_is_that_of_the_question() -> None:
    answers, took = asked({A: 2.0, B: 1.0})
    assert list(answers.given.items()) == [(A, "from a"), (B, "from b")]
    assert took == 2.0


def test_an_unreachable_peer_is_a_failure_and_delays_no_others() -> None:
    answers, took = asked({A: -1.0, B: 2.0})
    assert set(answers.given) == {B}
    assert isinstance(answers.failed[A], Unreachable)
    assert took == 2.0


def test_a_silent_peer_is_in_neither_dictionary_after_the_deadline() -> None:
    answers, took = asked({A: SILENT, B: 1.0}, deadline=5.0)
    assert set(answers.given) == {B}
    assert not answers.failed
    assert took == 5.0


def test_after_the_first_answer_the_others_have_so_many_seconds() -> None:
    answers, took = asked({A: 1.0, B: 2.0, C: 10.0}, hurry=3.0)
    assert set(answers.given) == {A, B}
    assert took == 4.0


def test_a_failure_does_not_make_the_others_hurry() -> None:
    answers, took = asked({A: -1.0, B: 6.0}, hurry=0.0)
    assert set(answers.given) == {B}
    assert took == 6.0


def test_enough_answers_end_it() -> None:
    answers, took = asked({A: 3.0, B: 1.0, C: 2.0}, enough=2)
    assert set(answers.given) == {B, C}
    assert took == 2.0


def test_a_fault_of_our_own_is_raised() -> None:
    async def ask(peer: PeerId) -> str:
        raise ZeroDivisionError

    async def main() -> None:
        await ask_all([A], ask)

    with pytest.raises(ExceptionGroup):
        simulate(main())


def test_a_broken_answer_counts_as_a_failure_of_its_sender() -> None:
    async def ask(peer: PeerId) -> str:
        raise Malformed("not an answer")

    async def main() -> Answers[str]:
        return await ask_all([A, A], ask)

    assert list(simulate(main()).failed) == [A]
