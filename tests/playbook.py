"""A machine in a test: `play` gives it events and compares its commands with those expected.

Every step is (now, event, commands expected of it); the first event is None, the start.

    play(
        a_round(),
        (0, None, [Send((B, C), hello), WakeAt(10)]),
        (1, Received(from_b), []),
        (10, Woken(), [Finish(outcome)]),
    )

An expected command may also be its class, where its content is checked elsewhere: ``[Compute, WakeAt(10)]``.
"""

from collections.abc import Iterable, Sequence
from difflib import ndiff
from typing import Any

from swarm.machine import Command, Event, Machine

Expected = Command | type
Step = tuple[float, Event | None, Sequence[Expected]]


def play(machine: Machine[Any], *steps: Step) -> list[Command]:
    """Give the machine the events of ``steps`` and compare; returns the commands of the last step.

    Raises `AssertionError` with the first step that goes otherwise.
    """
    commands: list[Command] = []
    for number, (now, event, expected) in enumerate(steps):
        commands = list(machine.start(now) if event is None else machine.handle(event, now))
        if not _agree(commands, expected):
            raise AssertionError(
                _difference(
                    f"step {number}, at {now:g} s, {event if event else 'the start'!r}", commands, expected
                )
            )
    return commands


def _agree(commands: Sequence[Command], expected: Sequence[Expected]) -> bool:
    pairs = zip(commands, expected, strict=False)
    return len(commands) == len(expected) and all(
        isinstance(command, wanted) if isinstance(wanted, type) else command == wanted
        for command, wanted in pairs
    )


def _difference(scene: str, commands: Iterable[Command], expected: Iterable[Expected]) -> str:
    wanted = [item.__name__ if isinstance(item, type) else repr(item) for item in expected]
    got = [repr(command) for command in commands]
    return "\n".join(
        [
            f"{scene}: the play says (-), the machine did (+)",
            *ndiff(wanted or ["nothing"], got or ["nothing"]),
        ]
    )
