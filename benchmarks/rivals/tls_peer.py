"""The floor: the bytes of a butterfly over mutual TLS 1.3, with `sendall` and `recv_into` in threads.

Each peer sends every other one its share of the update and of the result, 2 · size(P / n) bytes at once, and
receives as much. Buffers are allocated beforehand and never read: no hash, no sum, no protocol. The
certificates are those of a real run.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.worker import Check, Times, Trial, serve
from swarm.identity import KeyPair
from swarm.transport.tls import client_context, server_context

CHUNK = 1 << 20
_RUN = bytes(32)


class TlsPeer:
    """One peer of the floor."""

    def prepare(self, trial: Trial) -> Any:
        """Listen; returns the port."""
        self._trial = trial
        self._key = KeyPair.from_seed(bytes([trial.seat]) * 32)
        self._outgoing = os.urandom(trial.share)
        self._incoming = [bytearray(trial.share) for _ in range(trial.peers - 1)]
        self._listener = socket.create_server(("127.0.0.1", 0))
        return self._listener.getsockname()[1]

    def connect(self, contacts: list[Any]) -> None:
        """Connect to all peers, and accept the connections of all."""
        self._sources: list[ssl.SSLSocket] = []
        self._threads = ThreadPoolExecutor(2 * (self._trial.peers - 1))
        accepting = self._threads.submit(self._accept)
        context = client_context(self._key, _RUN)
        ports = [port for seat, port in enumerate(contacts) if seat != self._trial.seat]
        self._targets = [
            context.wrap_socket(_tuned(socket.create_connection(("127.0.0.1", port)))) for port in ports
        ]
        accepting.result()
        self._sent = 0

    def _accept(self) -> None:
        context = server_context(self._key, _RUN)
        for _ in range(self._trial.peers - 1):
            accepted, _ = self._listener.accept()
            self._sources.append(context.wrap_socket(_tuned(accepted), server_side=True))
        self._listener.close()

    def reset(self) -> None:
        """Does nothing: the bytes stay the same."""

    def average(self) -> Times:
        """Send to all peers and receive from all, at the same time."""
        began = time.monotonic()
        sending = [self._threads.submit(self._send, target) for target in self._targets]
        receiving = [
            self._threads.submit(_receive, *pair) for pair in zip(self._sources, self._incoming, strict=True)
        ]
        for done in (*sending, *receiving):
            done.result()
        self._sent += len(self._outgoing) * len(self._targets)
        return Times(called=began, began=began, ended=time.monotonic(), sent=self._sent)

    def _send(self, target: ssl.SSLSocket) -> None:
        view = memoryview(self._outgoing)
        for start in range(0, len(view), CHUNK):
            target.sendall(view[start : start + CHUNK])

    def check(self) -> Check:
        """Always without error: nothing is averaged, and `average` has waited for all bytes."""
        return Check(error=0.0)

    def release(self) -> None:
        """Close the connections and end the threads."""
        for connection in (*self._targets, *self._sources):
            connection.close()
        self._threads.shutdown()
        self._targets = []
        self._sources = []
        self._incoming = []
        self._outgoing = b""

    def close(self) -> None:
        """Does nothing: `release` has closed everything."""


def _receive(source: ssl.SSLSocket, buffer: bytearray) -> None:
    view = memoryview(buffer)
    received = 0
    while received < len(view):
        count = source.recv_into(view[received:])
        if not count:
            raise ConnectionError("the other side left in the middle")
        received += count


def _tuned(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    serve(TlsPeer())
