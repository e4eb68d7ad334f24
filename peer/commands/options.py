"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swarm.ticket import Address

F = TypeVar("F", bound=Callable[..., Any])


class ListenAddress(click.ParamType[Address]):
    """A ``HOST:PORT`` to listen on; port 0 means any free one."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Return the address. Fails with an example where the text is none."""
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(value)
        except ValueError as error:
            self.fail(f"{error}; for example 0.0.0.0:7420, or 127.0.0.1:0 for any free port", param, ctx)


class PeerName(click.ParamType[str]):
    """A name in UTF-8. The shell can pass bytes that are none; they could not be sent to anybody."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Fails where it is not text."""
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail("the name has bytes that are not UTF-8; choose one of plain letters", param, ctx)
        return str(value)


def combined(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that adds several options, in the order given."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


CODECS = click.Choice(
    ["fp32", "fp16", "bf16", "int8", "int4", "sparse512", "sparse256", "sparse128", "sparse64"]
)
"""The codecs that a run may send its updates in."""

json_option = click.option(
    "--json", "json_lines", is_flag=True, help="Standard output is JSON lines and nothing else."
)

data_option = click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or file of text. Default: Python's standard library.",
)

model_options = combined(
    click.option(
        "--model",
        default="nano",
        show_default=True,
        help="tiny (11k parameters), nano (0.1M), small (10M), base (124M class).",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of the fresh model."),
)
"""The model that a new run trains."""

peer_options = combined(
    click.option(
        "--home",
        type=click.Path(path_type=Path),
        help="Folder for key, text, checkpoints. Default: ~/.swarm/RUN/1.",
    ),
    click.option(
        "--listen",
        type=ListenAddress(),
        help="Address that others reach this peer at. Default: port 7420, or any free one.",
    ),
    click.option("--name", type=PeerName(), default="", help="Name that others see, instead of an animal's."),
    json_option,
)
"""What a volunteer decides about a peer."""
