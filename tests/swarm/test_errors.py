"""Each error has a code of its own, a family and an exit status, and shows its fact and its advice."""

from collections.abc import Iterator

import pytest

from swarm.errors import OurFault, SwarmError, TheirFault, Weather


def family(root: type[SwarmError]) -> Iterator[type[SwarmError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


ALL = [kind for kind in family(SwarmError) if kind.__module__ == "swarm.errors"]


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(kind) for kind in ALL), "an inherited code would name two errors"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_shows_its_code_its_fact_and_its_advice(kind: type[SwarmError]) -> None:
    error = kind("the port is taken", "choose another")
    assert str(error) == f"[{kind.code}] the port is taken\n  try: choose another"
    assert (error.fact, error.advice) == ("the port is taken", "choose another")
    assert str(kind("it rains")) == f"[{kind.code}] it rains"


@pytest.mark.parametrize("kind", ALL[1:], ids=lambda kind: kind.__name__)
def test_every_error_is_our_fault_or_their_fault_or_weather(kind: type[SwarmError]) -> None:
    assert sum(issubclass(kind, branch) for branch in (OurFault, TheirFault, Weather)) == 1


def test_every_error_ends_the_process_with_a_status_that_says_failure() -> None:
    assert all(0 < kind.exit_status < 126 for kind in ALL)
