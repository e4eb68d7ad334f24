"""When the shared model is scored, and when it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

from peer.rounds.evaluator import REMEMBERED, SAMPLE_SECONDS, Evaluator
from peer.training.compute import Inline
from swarm.simulation.clock import simulate

_RUNS = (number.to_bytes(32, "little") for number in count())


class Pupil:
    """A learner that knows its round and counts what is asked of it."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(round=0)
        self.asked: list[str] = []

    def evaluate(self) -> float:
        self.asked.append("score")
        return 2.5

    def sample(self) -> str:
        self.asked.append("sample")
        return "once upon a time"


def examined(play: Callable[[Evaluator, Pupil, Any], Any], *, has_screen: bool = True) -> None:
    async def story() -> None:
        metrics: Any = SimpleNamespace(sample_text="", state_root=bytes(32))
        manifest: Any = SimpleNamespace(evaluate_every=3, run_id=next(_RUNS))
        await play(
            Evaluator(manifest, Inline(lambda job: 0.0), metrics, has_screen=has_screen), Pupil(), metrics
        )

    simulate(story())


def test_a_score_is_due_every_so_many_rounds_and_at_the_end() -> None:
    async def play(examiner: Evaluator, pupil: Any, metrics: Any) -> None:
        scores = []
        for round_, now in ((1, False), (2, False), (3, False), (4, True)):
            pupil.state.round = round_
            scores.append(await examiner.score_if_due(pupil, now=now))
        assert scores == [None, None, 2.5, 2.5]

    examined(play)


def test_one_model_is_scored_once_whoever_asks() -> None:
    async def play(examiner: Evaluator, pupil: Any, metrics: Any) -> None:
        for round_ in range(2 * REMEMBERED + 2):
            metrics.state_root = bytes([round_ % (REMEMBERED + 1)]) * 32
            for _ in range(2):
                assert await examiner.score_if_due(pupil, now=True) == 2.5
        assert pupil.asked == ["score"] * (2 * REMEMBERED + 2), "the oldest are forgotten"

    examined(play, has_screen=False)


def test_samples_are_rarer_than_scores_and_only_for_a_screen() -> None:
    async def play(examiner: Evaluator, pupil: Any, metrics: Any) -> None:
        for round_ in range(3):
            metrics.state_root = bytes([round_]) * 32
            await examiner.score_if_due(pupil, now=True)
        assert pupil.asked == ["score", "sample", "score", "score"]
        assert metrics.sample_text == "once upon a time"
        await asyncio.sleep(SAMPLE_SECONDS)
        await examiner.score_if_due(pupil, now=True)
        assert pupil.asked[-1] == "sample"

    async def blind(examiner: Evaluator, pupil: Any, metrics: Any) -> None:
        await examiner.score_if_due(pupil, now=True)
        assert pupil.asked == ["score"]

    examined(play)
    examined(blind, has_screen=False)
