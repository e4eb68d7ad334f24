"""When the shared model is scored on held-out text, and when it writes a sample."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

from peer.rounds.evaluator import REMEMBERED, SAMPLE_SECONDS, Evaluator
from peer.training.compute import Inline
from swarm.simulation.clock import simulate

RUN_IDS = (number.to_bytes(32, "little") for number in count())


def root_of(number: int) -> bytes:
    """The state root of a model."""
    return bytes([number]) * 32


class ScoredLearner:
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


def evaluated(play: Callable[[Evaluator, ScoredLearner, Any], Any], *, has_screen: bool = True) -> None:
    """Run ``play`` with an evaluator, a learner and the texts of a screen, in a run of its own."""

    async def story() -> None:
        metrics: Any = SimpleNamespace(shown=SimpleNamespace(sample=""))
        manifest: Any = SimpleNamespace(evaluate_every=3, run_id=next(RUN_IDS))
        await play(
            Evaluator(manifest, Inline(lambda job: 0.0), metrics, has_screen=has_screen),
            ScoredLearner(),
            metrics.shown,
        )

    simulate(story())


def test_a_score_is_due_every_so_many_rounds_and_at_the_end() -> None:
    async def play(evaluator: Evaluator, learner: Any, shown: Any) -> None:
        scores = []
        for round_, now in ((1, False), (2, False), (3, False), (4, True)):
            learner.state.round = round_
            scores.append(await evaluator.score_if_due(learner, root_of(round_), now=now))
        assert scores == [None, None, 2.5, 2.5]

    evaluated(play)


def test_one_model_is_scored_once_however_many_peers_of_a_process_ask() -> None:
    async def play(evaluator: Evaluator, learner: Any, shown: Any) -> None:
        for round_ in range(2 * REMEMBERED + 2):
            root = root_of(round_ % (REMEMBERED + 1))
            for _ in range(2):
                assert await evaluator.score_if_due(learner, root, now=True) == 2.5
        assert learner.asked == ["score"] * (2 * REMEMBERED + 2), "the oldest are forgotten"

    evaluated(play, has_screen=False)


def test_samples_are_rarer_than_scores_and_written_only_for_a_screen() -> None:
    async def play(evaluator: Evaluator, learner: Any, shown: Any) -> None:
        for round_ in range(3):
            await evaluator.score_if_due(learner, root_of(round_), now=True)
        assert learner.asked == ["score", "sample", "score", "score"]
        assert shown.sample == "once upon a time"
        await asyncio.sleep(SAMPLE_SECONDS)
        await evaluator.score_if_due(learner, root_of(2), now=True)
        assert learner.asked[-1] == "sample"

    async def without_screen(evaluator: Evaluator, learner: Any, shown: Any) -> None:
        await evaluator.score_if_due(learner, root_of(0), now=True)
        assert learner.asked == ["score"]

    evaluated(play)
    evaluated(without_screen, has_screen=False)
