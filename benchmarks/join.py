"""A late join under trouble: the model from four donors, of which one is killed half-way and one serves corrupt chunks.

    python -m benchmarks.join [--model small] [--mbit 100] [--runs 3] [--quick] [--json FILE]

    donor 0 ──┐
    donor 1 ──┤  relay: one token bucket for all that comes down, ──► newcomer
    donor 2 ──┤  as a volunteer's line is one line
    donor 3 ──┘

Every peer is a process of its own, with the transport, the library and the machine that real peers run. Counted are the state's
bytes over the seconds from the newcomer's first request to the state put together and its root compared, as a share of the line:
what the liar and the killed donor waste, TLS, heads and hashing are all in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peer.chunks.download import DownloadProgress, Wanted
from peer.chunks.exchange import ChunkExchange, Content, Order
from peer.chunks.hashes import chunk_count, chunk_length
from peer.models.registry import count, presets
from peer.training.compute import Compute
from peer.training.state import (
    CHUNK,
    SharedState,
    StateContent,
    assemble,
    blob_length,
    state_root,
    state_root_from,
)
from swarm.identity import KeyPair, petname
from swarm.machine import Report
from swarm.membership.contacts import Contacts, seal_contact
from swarm.ticket import Address
from swarm.transport.http import HttpTransport
from swarm.transport.throttle import TokenBucket

RUN = bytes(32)
ROUND = 7
DONORS = 4
LIAR, VICTIM = 1, 2
HALF = 0.5
SECONDS = 300.0
PIECE = 1 << 16
ANY_PORT = Address("127.0.0.1", 0)
LinkClaim = dict[str, Any]


def key(number: int) -> KeyPair:
    """Donors are 0 to 3, the newcomer is 4."""
    return KeyPair.from_seed(number.to_bytes(32, "big"))


def state_of(numbers: int) -> SharedState:
    """The same on every donor."""
    return SharedState(ROUND, torch.randn(numbers, generator=torch.Generator().manual_seed(ROUND)))


def say(**line: object) -> None:
    """One line for the parent."""
    print(json.dumps(line), flush=True)


def go_with_the_parent() -> None:
    """The parent holds the other end of standard input: however it ends, so does this process."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class Corrupt:
    """Content of which every chunk has one wrong bit."""

    truth: Content

    @property
    def hashes(self) -> Sequence[bytes]:
        """The true ones: a liar that wants to be asked."""
        return self.truth.hashes

    def chunk(self, index: int) -> bytes:
        """The chunk, with its first bit turned."""
        chunk = bytearray(self.truth.chunk(index))
        chunk[0] ^= 1
        return bytes(chunk)


async def donate(number: int, numbers: int) -> None:
    """Be a donor until somebody ends this process."""
    truth = StateContent(state := state_of(numbers))
    content: Content = Corrupt(truth) if number == LIAR else truth
    compute = Compute()
    async with HttpTransport(key(number), RUN, b"", Contacts(RUN)) as transport, asyncio.TaskGroup() as tasks:
        ChunkExchange(transport, compute, tasks, lambda report: None).offer(state_root(state), content)
        address = await transport.listen(ANY_PORT)
        say(port=address.port, root=state_root(state).hex())
        await asyncio.Event().wait()


async def join(numbers: int, ports: Sequence[int], root: bytes) -> None:
    """Be the newcomer: fetch the state of ``root``, put it together, compare."""
    contacts, compute, reports = Contacts(RUN), Compute(), list[Report]()
    for number, port in enumerate(ports):
        contacts.learn(seal_contact(key(number), RUN, (Address("127.0.0.1", port),), 1))
    donors = [key(number).peer_id for number in range(DONORS)]
    length = blob_length(numbers, has_momentum=False)
    lengths = tuple(chunk_length(index, length, CHUNK) for index in range(chunk_count(length, CHUNK)))

    def tell(headway: DownloadProgress) -> None:
        say(here=headway.chunks, whole=headway.chunks_whole)

    async with HttpTransport(key(DONORS), RUN, b"", contacts) as transport, asyncio.TaskGroup() as tasks:
        library = ChunkExchange(transport, compute, tasks, reports.append)
        began, deadline = time.monotonic(), asyncio.get_running_loop().time() + SECONDS

        def proves(hashes: tuple[bytes, ...]) -> bool:
            return state_root_from(ROUND, hashes, length) == root

        hashes = await library.index(root, donors, len(lengths), proves, deadline)
        fetched = await library.download(
            Order("model", root, Wanted(hashes, lengths, deadline)), donors, tell
        )
        verified = False
        if fetched.complete:
            state = assemble(
                ROUND, [fetched.chunks[index] for index in range(len(lengths))], numbers, has_momentum=False
            )
            verified = state_root(state) == root
        seconds = time.monotonic() - began
        named = [petname(report.peer) for report in reports if report.code == "bad-chunk" and report.peer]
        say(seconds=seconds, verified=verified, named=named, bytes=length, bytes_down=transport.bytes_down)
    compute.close()


# --- the stage ----------------------------------------------------------------------------------------------


class Relay:
    """The newcomer's line: what comes down through all its doors shares one bucket."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bucket = TokenBucket(bytes_per_second, 2 * PIECE)

    @contextlib.asynccontextmanager
    async def door(self, port: int) -> AsyncIterator[int]:
        """A port that leads to ``port``."""

        async def meet(inside: asyncio.StreamReader, inside_out: asyncio.StreamWriter) -> None:
            try:
                outside, outside_out = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                inside_out.close()
                return
            pumps = [self._pump(inside, outside_out, slow=False), self._pump(outside, inside_out, slow=True)]
            await asyncio.gather(*pumps, return_exceptions=True)

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        try:
            while piece := await source.read(PIECE):
                if slow and (delay := self._bucket.take(len(piece), asyncio.get_running_loop().time())):
                    await asyncio.sleep(delay)
                sink.write(piece)
                await sink.drain()
        finally:
            sink.close()  # one direction has ended: so has the line


class Child:
    """One process, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *words: object) -> Child:
        """This very file in another role."""
        command = [sys.executable, "-m", "benchmarks.join", *map(str, words)]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    async def line(self) -> LinkClaim | None:
        """The next line; None at the end."""
        async with asyncio.timeout(SECONDS):
            assert self.process.stdout
            raw = await self.process.stdout.readline()
        return json.loads(raw) if raw else None

    async def end(self) -> None:
        """Kill it, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def measure(model: str, mbit: float) -> LinkClaim:
    """One join; what came of it."""
    numbers, rate = count(presets[model]), mbit * 1e6 / 8
    async with contextlib.AsyncExitStack() as stack:
        donors: list[Child] = []
        for number in range(DONORS):
            donors.append(await Child.start("--role", f"donor{number}", "--model", model))
            stack.push_async_callback(donors[-1].end)
        relay = Relay(rate)
        ports, root = [], ""
        for donor in donors:
            line = await donor.line()
            assert line
            ports.append(await stack.enter_async_context(relay.door(line["port"])))
            root = line["root"]
        newcomer = await Child.start(
            "--role", "newcomer", "--model", model, "--root", root, "--ports", *ports
        )
        stack.push_async_callback(newcomer.end)
        killed_at = None
        while line := await newcomer.line():
            if "seconds" in line:
                break
            if killed_at is None and line["here"] >= HALF * line["whole"]:
                donors[VICTIM].process.send_signal(signal.SIGKILL)
                killed_at = line["here"] / line["whole"]
        assert line, "the newcomer ended without a word"
    return {
        "model": model,
        "parameters": numbers,
        "bytes": line["bytes"],
        "mbit": mbit,
        "seconds": line["seconds"],
        "share_of_link": line["bytes"] / line["seconds"] / rate,
        "waste": line["bytes_down"] / line["bytes"] - 1,
        "verified": line["verified"],
        "killed_at": killed_at,
        "named": line["named"],
        "liar": petname(key(LIAR).peer_id),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small", choices=sorted(presets))
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs="*", default=(), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    numbers = count(presets[chosen.model])
    if chosen.role:
        go_with_the_parent()
    if chosen.role.startswith("donor"):
        asyncio.run(donate(int(chosen.role.removeprefix("donor")), numbers))
    elif chosen.role == "newcomer":
        asyncio.run(join(numbers, chosen.ports, bytes.fromhex(chosen.root)))
    else:
        _tell(
            [
                asyncio.run(measure(chosen.model, chosen.mbit))
                for _ in range(1 if chosen.quick else chosen.runs)
            ],
            chosen.json,
        )


def _tell(rows: list[LinkClaim], to: Path | None) -> None:
    print(
        f"{'model':6} {'MB':>6} {'Mbit/s':>7} {'seconds':>8} {'of the link':>12} {'wasted':>7}  verified  named"
    )
    for row in rows:
        what = f"{row['model']:6} {row['bytes'] / 1e6:6.1f} {row['mbit']:7.0f} {row['seconds']:8.2f}"
        named = f"{', '.join(row['named'])} (the liar: {row['liar']})"
        print(f"{what} {row['share_of_link']:11.1%} {row['waste']:7.1%}  {row['verified']!s:8}  {named}")
    share = statistics.median(row["share_of_link"] for row in rows)
    is_well = all(row["verified"] and row["named"] == [row["liar"]] and row["killed_at"] for row in rows)
    verdict = "every join verified, the liar and only the liar named" if is_well else "NOT as it should be"
    print(f"median {share:.1%} of the link; {verdict}")
    if to:
        to.write_text(json.dumps({"share_of_link": share, "is_well": is_well, "rows": rows}, indent=1))
    raise SystemExit(0 if is_well else 1)


if __name__ == "__main__":
    main()
