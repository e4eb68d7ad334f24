"""A few hosts behind links of a chosen rate, on one machine: network namespaces that vanish with the processes that hold them.

    host 0 ─ eth0 ══ port0 ─┐
    host 1 ─ eth0 ══ port1 ─┼─ bridge, in a namespace of its own        ══ a veth pair, a token bucket (tbf) at either end
    host 2 ─ eth0 ══ port2 ─┘

Rule 1: nothing has a name outside: a namespace lives as long as its holder, and a holder reads from a pipe of ours until it closes.
        So an interrupt, and even a kill, leaves no namespace, link or process behind.
Rule 2: a bucket holds a millisecond, so that small messages are not sent on credit. There is no delay besides that of the bytes:
        emulating distance would need more than a token bucket. That is kind to whoever speaks often.
Rule 3: where namespaces are not allowed all hosts are loopback, unshaped, and `Lab.shaped` says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from benchmarks.cast import Actor, NotMeasured

SUBNET = "10.77.0"
_SMALLEST_BUCKET = 3_000
_COMMAND_SECONDS = 20.0


class Lab:
    """A context manager with ``hosts`` hosts. `shape` sets their links, `crew` starts a process on each."""

    def __init__(self, hosts: int) -> None:
        self._count = hosts
        self._holders: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        self._started = 0
        self.why_not = ""
        """Why links cannot be shaped; empty where they can."""

    @property
    def shaped(self) -> bool:
        """Whether hosts have links of their own."""
        return not self.why_not

    def __enter__(self) -> Lab:
        self.why_not = _obstacle()
        if self.shaped:
            try:
                self._build()
            except (NotMeasured, OSError) as error:
                self._stack.close()
                self._holders, self.why_not = [], str(error)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-benchmark-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, host: int) -> str:
        """The IP address of a host."""
        return f"{SUBNET}.{host + 1}" if self.shaped else "127.0.0.1"

    @property
    def interface(self) -> str:
        """The name of a host's interface."""
        return "eth0" if self.shaped else "lo"

    def shape(self, mbit: float) -> None:
        """Give every host ``mbit`` Mbit/s up and as much down. Without namespaces nothing happens."""
        if not self.shaped:
            return
        bucket = max(_SMALLEST_BUCKET, int(mbit * 125))
        limits = ["rate", f"{mbit}mbit", "burst", str(bucket), "latency", "300ms"]
        for host in range(self._count):
            self._inside(host + 1, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *limits)
            self._inside(0, "tc", "qdisc", "replace", "dev", f"port{host}", "root", "tbf", *limits)

    def crew(self, module: str) -> list[Actor]:
        """``python -m module`` on every host; `dismiss` ends them, and so does the end of the lab."""
        workers = []
        for host in range(self._count):
            log, self._started = self._folder / f"{self._started}.log", self._started + 1
            through = self._door(host + 1) if self.shaped else []
            workers.append(
                Actor(module, log, through=through, HIVEMIND_LOGLEVEL="INFO", HIVEMIND_COLORS="False")
            )
            self._stack.callback(workers[-1].end)
        return workers

    # --- building -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        """The bridge's namespace is holder 0, that of host n is holder n + 1."""
        for _ in range(self._count + 1):
            command = ["unshare", "--net", "cat"]
            holder = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            self._holders.append(holder)
            self._stack.callback(_release, holder)
            assert holder.stdin
            assert holder.stdout
            holder.stdin.write(b"\n")  # what cat repeats proves that the namespace stands
            holder.stdin.flush()
            if holder.stdout.readline() != b"\n":
                raise NotMeasured("this user may not make network namespaces (root may)")
        self._inside(0, "ip", "link", "add", "bridge", "type", "bridge")
        self._inside(0, "ip", "link", "set", "bridge", "up")
        for host in range(self._count):
            port, pid = f"port{host}", str(self._holders[host + 1].pid)
            self._inside(0, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid)
            self._inside(0, "ip", "link", "set", port, "master", "bridge", "up")
            self._inside(host + 1, "ip", "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._inside(host + 1, "ip", "link", "set", "eth0", "up")
            self._inside(host + 1, "ip", "link", "set", "lo", "up")

    def congestion(self) -> str:
        """TCP congestion control of the hosts, where a program does not choose its own: the machine's."""
        command = ["sysctl", "-n", "net.ipv4.tcp_congestion_control"]
        return (self._inside(1, *command) if self.shaped else _run(command)).strip()

    def _inside(self, holder: int, *command: str) -> str:
        return _run([*self._door(holder), *command])

    def _door(self, holder: int) -> list[str]:
        """What a command begins with that is to run in a namespace."""
        return ["nsenter", f"--net=/proc/{self._holders[holder].pid}/ns/net"]


def dismiss(workers: Sequence[Actor]) -> None:
    """End all of them, side by side."""
    threads = [threading.Thread(target=worker.end) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _obstacle() -> str:
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    missing = [tool for tool in ("unshare", "nsenter", "ip", "tc") if not shutil.which(tool)]
    return f"{', '.join(missing)} not found (packages util-linux and iproute2)" if missing else ""


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise NotMeasured(str(error)) from error
    if done.returncode:
        raise NotMeasured(f"{' '.join(command[2:])}: {done.stderr.strip()}")
    return done.stdout


def _release(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin
    with suppress(OSError):
        holder.stdin.close()
    holder.wait()
    if holder.stdout:
        holder.stdout.close()
