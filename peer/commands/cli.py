"""The command line. Each command is a few lines and calls one function, imported only when it runs: help must come at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from swarm import __version__
from swarm.errors import ConfigError, SwarmError
from swarm.ticket import Address, Ticket

from ..observe.reporter import Reporter

F = TypeVar("F", bound=Callable[..., Any])

LEAVE_SECONDS = 3.5
"""A peer that was asked to leave has done so after this time, whatever it was doing. People wait five seconds; a busy computer
needs some of them to hear the question."""
EXIT_CODES = """
\b
Exit codes
  0  done, or left cleanly (Ctrl-C)
  1  a fault in this program
  2  wrong usage: an option, a setting, or the ticket
  3  something on this computer must change (port, disk, data, home, version)
  4  another peer broke the rules and we could not go on without it
  5  the network would not have it; try again
  6  nobody of the run answers
"""


class _Listen(click.ParamType[Address]):
    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return Address.parse(value)
        except ValueError as error:
            self.fail(f"{error}; for example 0.0.0.0:7420, or 127.0.0.1:0 for any free port", param, ctx)


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_json = click.option(
    "--json", "json_lines", is_flag=True, help="Standard output is JSON lines and nothing else."
)
_volunteer = _options(
    click.option(
        "--home",
        type=click.Path(path_type=Path),
        help="Folder for key, text, checkpoints. Default: ~/.swarm/RUN/1.",
    ),
    click.option(
        "--listen", type=_Listen(), help="Where others reach this peer. Default: port 7420, or any free one."
    ),
    click.option("--name", default="", help="What others see instead of an animal's name."),
    _json,
)
_CODECS = click.Choice(
    ["fp32", "fp16", "bf16", "int8", "int4", "sparse512", "sparse256", "sparse128", "sparse64", "masked"]
)
_data = click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Text to train on. Default: Python's library.",
)
_run = _options(
    click.option(
        "--model",
        default="nano",
        show_default=True,
        help="tiny (11k parameters), nano (0.1M), small (10M), base (124M class).",
    ),
    click.option("--seed", default=0, show_default=True, help="Of the fresh model."),
)


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SWARM"}
)
@click.version_option(__version__, prog_name="swarm")
def cli() -> None:
    """Train a model together with volunteers' computers.

    \b
    swarm demo              see it: four peers on this computer train a small model
    swarm new               make a run of your own; prints a ticket
    swarm join TICKET       give computing time to a run; Ctrl-C leaves
    swarm top               follow a run on a dashboard
    swarm rehearse 64       try a swarm of 64 simulated peers
    """


@cli.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or file of text. Default: Python's standard library.",
)
@_run
@click.option("--rounds", type=click.IntRange(1), help="Length of the run. Default: 100 rounds.")
@click.option("--tokens", type=click.IntRange(1), help="Length of the run in tokens of all peers together.")
@click.option(
    "--preset",
    type=click.Choice(["lan", "safe", "ahead", "wan", "thin"]),
    default="safe",
    show_default=True,
    help="How the run averages. lan: one house. wan: homes. thin: slow lines, long runs. ahead: safe, training on meanwhile.",
)
@click.option("--codec", type=_CODECS, help="How updates travel, if not as the preset says.")
@click.option(
    "--exchange",
    type=click.Choice(["butterfly", "gather"]),
    help="Parts to owners, or all to all; if not as the preset.",
)
@click.option(
    "--fragments", type=click.IntRange(1, 64), help="Average the model in so many turns. Default: whole."
)
@click.option(
    "--round-seconds",
    type=float,
    help="Local training per round; each peer does what fits. Default: as the preset says, longer for large models.",
)
@click.option("--steps", default=500, show_default=True, help="At most this many local steps per round.")
@click.option(
    "--admission",
    type=click.Choice(["open", "invite"]),
    default="open",
    show_default=True,
    help="Who may join.",
)
@click.option(
    "--inner",
    type=click.Choice(["adamw", "muon"]),
    default="adamw",
    show_default=True,
    help="Local optimiser.",
)
@click.option(
    "--outer",
    type=click.Choice(["plain", "nesterov"]),
    help="Outer step. Default: plain averaging.",
)
@click.option(
    "--momentum", default=0.0, show_default=True, help="Of the outer step. 0: none, or what --outer needs."
)
@click.option(
    "--evaluate-every", default=1, show_default=True, help="Rounds between two evaluations on held-out text."
)
@click.option("--start-with", default=1, show_default=True, help="Peers to wait for before the first round.")
@click.option(
    "--ticket-file",
    type=click.Path(path_type=Path),
    help="Leave the ticket there, too, for 'swarm join @FILE'.",
)
@_volunteer
def new(
    data: Path | None, home: Path | None, listen: Address | None, json_lines: bool, **chosen: Any
) -> None:
    """Make a run, print its ticket, and be its first peer.

    Give the ticket to others; each of them types 'swarm join TICKET'. The run goes on without you once others are in it.
    """

    def start(reporter: Reporter) -> Coroutine[Any, Any, None]:
        from ..app.node import Options, found
        from ..config.run import RunSettings

        options = Options(
            home=home,
            listen=listen,
            name=chosen["name"],
            reporter=reporter,
            ticket_file=chosen["ticket_file"],
        )
        settings = RunSettings(
            name=chosen["name"],
            model=chosen["model"],
            rounds=chosen["rounds"] or 0,
            tokens=chosen["tokens"] or 0,
            preset=chosen["preset"],
            round_seconds=chosen["round_seconds"],
            max_steps=chosen["steps"],
            codec=chosen["codec"] or "",
            exchange=chosen["exchange"] or "",
            fragments=chosen["fragments"] or 0,
            admission=chosen["admission"],
            seed=chosen["seed"],
            inner=chosen["inner"],
            outer=chosen["outer"] or "",
            momentum=chosen["momentum"],
            evaluate_every=chosen["evaluate_every"],
            start_with=chosen["start_with"],
        )
        return found(settings, data, options)

    _be_a_peer(start, json_lines)


@cli.command()
@click.argument("ticket")
@_volunteer
def join(ticket: str, home: Path | None, listen: Address | None, name: str, json_lines: bool) -> None:
    """Give computing time to the run of TICKET. Ctrl-C leaves; the same command comes back and goes on.

    TICKET may be @FILE: the file of 'swarm new --ticket-file', waited for up to a minute.
    Needs nothing but the ticket: text and model come from the other peers. Joining never lets others run code here.
    """

    async def start(reporter: Reporter) -> None:
        from ..storage import ticket_file as invitation

        text = await invitation.ticket_text(ticket, asyncio.get_running_loop().time() + invitation.PATIENCE)
        known = Ticket.unpack(text)  # a typing error is told at once, before everything heavy is loaded
        from ..app.node import Options, join

        await join(known, Options(home=home, listen=listen, name=name, reporter=reporter))

    _be_a_peer(start, json_lines)


@cli.command()
@click.argument("source", required=False, default="", metavar="[TICKET|PEER]")
@click.option("--once", is_flag=True, help="Print one frame and end: 0 healthy, 1 not, 2 nobody answers.")
@click.option("--ascii", "plain", is_flag=True, help="Plain characters only.")
@_json
def top(source: str, once: bool, plain: bool, json_lines: bool) -> None:
    """Follow a run. Without an argument: the newest peer on this computer.

    PEER is a home folder or the HOST:PORT of a status page; a TICKET asks the run's own peers. Closing it never stops a peer.
    """

    async def start() -> int:
        from ..app.top import view
        from ..storage import ticket_file as invitation

        patience = asyncio.get_running_loop().time() + invitation.PATIENCE
        return await view(
            await invitation.ticket_text(source, patience), once=once, json_lines=json_lines, plain=plain
        )

    _exit(_guarded(start, Reporter(sys.stderr)))


@cli.command()
@click.option("--peers", default=4, show_default=True, type=click.IntRange(1, 32))
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=20, show_default=True, help="Local steps per round.")
@_run
@click.option("--codec", type=_CODECS, default="int4", show_default=True, help="How updates travel.")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Folder or file of text. Default: Python's standard library.",
)
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="Folder to leave the peers' files in. Default: a new one under /tmp.",
)
@_json
def demo(json_lines: bool, **chosen: Any) -> None:
    """See it work: several peers on this computer find each other, train a small model on real text, and average."""

    def start() -> Coroutine[Any, Any, int]:
        from ..app.demo import Demo, play

        return play(Demo(**chosen), json_lines=json_lines)

    _exit(_guarded(start, Reporter(sys.stdout if json_lines else sys.stderr, json_lines)))


@cli.command()
@click.argument("peers", type=click.IntRange(1, 1000))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="Same seed, same rehearsal, to the last bit.")
@click.option(
    "--churn",
    default=0.0,
    show_default=True,
    help="Chance that a peer crashes in a round; it comes back as a newcomer.",
)
@click.option("--loss", default=0.0, show_default=True, help="Chance that a message is lost.")
@click.option(
    "--jitter", default=0.02, show_default=True, help="Seconds that a message may take longer than another."
)
@_json
def rehearse(peers: int, rounds: int, seed: int, json_lines: bool, **weather: float) -> None:
    """Run a swarm of PEERS simulated peers in this process, on virtual time, with the code that real peers run."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # also where a shell started us in the background, deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    from ..simulation.run import rehearse_and_tell
    from ..simulation.scenario import scenario_of

    try:
        rehearse_and_tell(scenario_of(peers, rounds, seed, **weather), Reporter(sys.stdout, json_lines))
    except SwarmError as error:
        Reporter(sys.stdout if json_lines else sys.stderr, json_lines).error(error)
        _exit(error.exit_status)


@cli.command()
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option(
    "--kill-every", default=30.0, show_default=True, help="Seconds between two kill -9, on average; 0: never."
)
@click.option(
    "--freeze-every",
    default=0.0,
    show_default=True,
    help="Seconds between two SIGSTOP, on average; 0: never.",
)
@click.option(
    "--pause", default=3.0, show_default=True, help="Seconds before a new life, and length of a freeze."
)
@click.option(
    "--seed", default=platform.node, help="Same seed, same accidents. Default: the name of this computer."
)
def chaos(command: tuple[str, ...], **chosen: Any) -> None:
    """Run COMMAND, kill and freeze it at random, and start it again: swarm chaos -- swarm join TICKET

    Ends with COMMAND, with its exit code. What happens is told on standard error.
    """

    async def start() -> int:
        from ..app.chaos import Chaos, supervise

        return await supervise(command, Chaos(**chosen), Reporter(sys.stderr))

    _exit(_guarded(start, Reporter(sys.stderr)))


def _be_a_peer(start: Callable[[Reporter], Coroutine[Any, Any, None]], json_lines: bool) -> None:
    reporter = Reporter(sys.stdout, json_lines)

    async def life() -> int:
        await start(reporter)
        return 0

    _exit(_guarded(life, reporter if json_lines else Reporter(sys.stderr), leave_within=LEAVE_SECONDS))


def _guarded(
    start: Callable[[], Coroutine[Any, Any, int]], reporter: Reporter, leave_within: float = 0.0
) -> int:
    """Run to the end. One Ctrl-C (or SIGTERM) cancels and waits for a clean end; a second one ends at once.

    ``reporter`` hears how it ended: errors of people go to standard error, those of machines are lines among the others.
    ``leave_within`` bounds the clean end, 0 for not at all: arithmetic that is under way cannot be cancelled, and nobody should
    have to wait for it. Files are replaced as a whole, so nothing is lost that was there.
    """

    def give_up(*_: object) -> None:
        with contextlib.suppress(RuntimeError):  # in the middle of another line
            reporter.event("left", reason="asked to stop; a step was still under way")
        os._exit(0)

    def stop(task: asyncio.Task[int]) -> None:
        if leave_within and not task.cancelling():
            signal.signal(signal.SIGALRM, give_up)
            signal.setitimer(signal.ITIMER_REAL, leave_within)
        _stop(task)

    async def main() -> int:
        task = asyncio.create_task(start())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, task)
        try:
            return await task
        except asyncio.CancelledError:
            reporter.event("left", reason="asked to stop")
            if leave_within:
                sys.stdout.flush()
                os._exit(
                    0
                )  # all is closed and kept: Python's own end takes another second where the computer is busy
            return 0

    try:
        return asyncio.run(main())
    except SwarmError as error:
        reporter.error(error)
        return error.exit_status
    except ExceptionGroup as errors:
        known, unknown = errors.split(SwarmError)
        if known is None or unknown is not None:
            raise
        return _tell_all(known, reporter)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)  # Python forgets our handler before it ends


def _tell_all(errors: ExceptionGroup[SwarmError], reporter: Reporter) -> int:
    status = 1
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            status = _tell_all(error, reporter)
        elif isinstance(error, SwarmError):
            reporter.error(error)
            status = error.exit_status
    return status


def _stop(task: asyncio.Task[int]) -> None:
    if task.cancelling():
        os._exit(130)  # asked twice: the person does not want to wait
    task.cancel()


def _exit(status: int) -> None:
    sys.stdout.flush()
    raise SystemExit(status)


def main() -> None:
    """The console script."""
    try:
        cli()
    except ConfigError as error:
        Reporter(sys.stderr).error(error)
        _exit(error.exit_status)
