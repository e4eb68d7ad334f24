"""The commands and their options are frozen: scripts rely on them, and a change is a decision."""

from __future__ import annotations

import platform

import click
import pytest

from peer.commands.main import EXIT_CODES, cli

PEER_OPTIONS = {"--home": None, "--listen": None, "--name": "", "--json": False}

SURFACE: dict[str, dict[str, object]] = {
    "new": {
        "--data": None,
        "--model": "nano",
        "--seed": 0,
        "--rounds": None,
        "--tokens": None,
        "--preset": "safe",
        "--codec": None,
        "--exchange": None,
        "--fragments": None,
        "--round-seconds": None,
        "--steps": 500,
        "--admission": "open",
        "--inner": "adamw",
        "--outer": None,
        "--momentum": 0.0,
        "--evaluate-every": 1,
        "--start-with": 1,
        "--ticket-file": None,
        **PEER_OPTIONS,
    },
    "join": {"ticket": None, **PEER_OPTIONS},
    "top": {"source": "", "--once": False, "--ascii": False, "--json": False},
    "demo": {
        "--peers": 4,
        "--rounds": 40,
        "--steps": 20,
        "--model": "nano",
        "--seed": 0,
        "--codec": "int4",
        "--data": None,
        "--home": None,
        "--json": False,
    },
    "rehearse": {
        "peers": None,
        "--rounds": 5,
        "--seed": 0,
        "--seeds": 1,
        "--liars": 0,
        "--churn": 0.0,
        "--loss": 0.0,
        "--jitter": 0.02,
        "--json": False,
    },
    "chaos": {
        "command": None,
        "--kill-every": 30.0,
        "--freeze-every": 0.0,
        "--pause": 3.0,
        "--seed": platform.node(),
    },
}
"""Command -> its options and arguments, in the order of ``--help``, with their defaults."""


def surface_of(name: str) -> dict[str, object]:
    """The options and arguments of a command, with their defaults; None where there is none."""
    command = cli.commands[name]
    context = click.Context(command)
    defaults = {param.opts[0]: param.get_default(context) for param in command.params}
    return {
        option: None if repr(value).startswith("Sentinel") else value for option, value in defaults.items()
    }


def test_there_are_exactly_these_commands() -> None:
    assert set(cli.commands) == set(SURFACE)


@pytest.mark.parametrize("name", SURFACE)
def test_a_command_has_exactly_these_options_with_these_defaults(name: str) -> None:
    surface = surface_of(name)
    plain = {
        option: None if repr(value).startswith("Sentinel") else value for option, value in surface.items()
    }
    assert plain == SURFACE[name]
    assert list(plain) == list(SURFACE[name])


@pytest.mark.parametrize("code", range(7))
def test_help_explains_every_exit_code(code: int) -> None:
    assert f"\n  {code}  " in EXIT_CODES
