"""What must not happen to honest peers, however many liars there are, and the rehearsals in which it did.

    fork          two honest peers stand on two models of one round
    uncertified   an honest peer stands on a state that a liar has made
    stuck         honest peers have decided fewer than half of the rounds
    behind        an honest peer has not even come to half of the rounds while the others came to the end
    hang          no honest peer comes to its end in the scenario's patience
    gave-up       an honest peer has ended with an error of the protocol
    fault         something has raised an error that is none of the protocol: a bug
    leftovers     tasks are left at the end, or one honest peer has had too many at a time

All chance of a rehearsal comes from its seed, so each of them can be repeated.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SwarmError

from ..observe.reporter import RoundReport
from .peers import RehearsedRun
from .result import RehearsalResult, silent
from .run import rehearse
from .scenario import Scenario

TASKS = 50
"""The most tasks that one honest peer may have at a time ..."""
TASKS_PER_PEER = 12
"""... and so many more for each peer of the swarm: messages on their way, requests under way."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What has happened in one rehearsal. ``code`` is one of the module's list."""

    code: str
    fact: str


def judge(
    scenario: Scenario, tell: Callable[[RoundReport], None] = silent
) -> tuple[RehearsalResult | None, list[Violation]]:
    """Rehearse ``scenario``: what it came to, None where it has not come to its end; and what was wrong."""
    try:
        result = rehearse(scenario, tell)
    except Exception as error:  # noqa: BLE001 - whatever a liar has brought about is what is looked for
        return None, [_violation_of(error, scenario)]
    return result, list(violations(scenario, result))


def violations(scenario: Scenario, result: RehearsalResult) -> Iterator[Violation]:
    """What is wrong with a rehearsal that has come to its end."""
    if result.forks:
        yield Violation("fork", _forks_in_words(result))
    if result.uncertified:
        name, stand = result.uncertified[0]
        others = f", and there are {len(result.uncertified) - 1} more" if len(result.uncertified) > 1 else ""
        fact = f"at {stand.time:.1f} s {name} takes a state of round {stand.round} that a liar made{others}"
        yield Violation("uncertified", fact)
    decided = len(result.decided_rounds)
    if 2 * decided < scenario.rounds:
        yield Violation("stuck", f"only {decided} of {scenario.rounds} rounds were decided")
    for name, notebook in result.honest.items():
        reached = max((stand.round for stand in notebook.stands), default=0)
        if 2 * reached < scenario.rounds:
            yield Violation("behind", f"{name} has come to round {reached} of {scenario.rounds}")
    if result.leftovers:
        yield Violation("leftovers", f"tasks that are left: {', '.join(result.leftovers[:8])}")
    allowed = TASKS + TASKS_PER_PEER * scenario.peers
    if result.most_tasks > allowed:
        yield Violation("leftovers", f"an honest peer had {result.most_tasks} tasks, {allowed} are bearable")


def _forks_in_words(result: RehearsalResult) -> str:
    by_round: dict[int, dict[str, list[str]]] = {}
    for name, stand in result.forked:
        by_root = by_round.setdefault(stand.round - 1, {})
        names = by_root.setdefault(stand.state_root[:8], [])
        if name not in names:
            names.append(name)
    round_, sides = min(by_round.items())
    words = ", ".join(f"{' '.join(names)} at {root}" for root, names in sorted(sides.items()))
    return f"after round {round_}: {words}"


def _violation_of(error: BaseException, scenario: Scenario) -> Violation:
    first = error
    notes = list(getattr(error, "__notes__", ()))
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
        notes += getattr(first, "__notes__", ())
    who = _with_names(notes, scenario)
    if isinstance(first, TimeoutError):
        return Violation("hang", "honest peers have not come to the end of the run")
    if isinstance(first, SwarmError):
        return Violation("gave-up", f"{first.fact} [{first.code}]{who}")
    return Violation("fault", f"{type(first).__name__}: {first}{_where(first)}{who}")


def _where(error: BaseException) -> str:
    """File and line that raised ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f", at {'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}" if frames else ""


def _with_names(notes: Iterable[str], scenario: Scenario) -> str:
    """The notes of an error, who was doing what: with names in place of ids."""
    words = "".join(f", {note}" for note in notes if note.startswith("while "))
    for name, key in RehearsedRun.of(scenario).keys.items():
        words = words.replace(key.peer_id, name)
    return words
