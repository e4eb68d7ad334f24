"""What processes cost, read from /proc: CPU, memory, bytes on an interface. Linux only.

A peer is a process and all its descendants: hivemind's has five.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

_MEGA = 1e6
_KIB = 1024


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants, as far as they are still there."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of CPU that the families of ``pids`` have used so far, those that live (clock ticks of 10 ms)."""
    used = 0.0
    for pid in pids:
        for process in family(pid):
            try:
                times = process.cpu_times()
                used += times.user + times.system
            except psutil.NoSuchProcess:
                continue
    return used


def busy() -> float:
    """Seconds for which the cores of this machine have worked, all together."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def sent_bytes(interface: str = "lo") -> int:
    """Bytes that ``interface`` has sent, packet heads included, whoever sent them. Raises `ValueError` where it is not there."""
    counters = psutil.net_io_counters(pernic=True)
    if interface not in counters:
        raise ValueError(f"there is no interface {interface}")
    return int(counters[interface].bytes_sent)


def pss_of(pids: Sequence[int]) -> float:
    """Proportional set size of processes in 10⁶ bytes: what they share with others is divided among them."""
    return sum(_figure(pid, "smaps_rollup", "Pss") for pid in pids)


def peak_rss_of(pid: int) -> float:
    """Largest resident sets since `forget_peaks`, of a family, in 10⁶ bytes."""
    return sum(_figure(process.pid, "status", "VmHWM") for process in family(pid))


def forget_peaks(pids: Sequence[int]) -> None:
    """Let the kernel count peaks from here on."""
    for process in (process for pid in pids for process in family(pid)):
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        except OSError:  # it ended, or is not ours: then its peak is that of its whole life
            continue


def _figure(pid: int, file: str, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0.0
    kib = next((line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")), "0")
    return int(kib) * _KIB / _MEGA


class MemoryWatch:
    """Looks at families, as they are at first, until the context ends; ``peaks`` is each one's largest PSS in 10⁶ bytes.

    Looking costs CPU: not in a timed round.
    """

    def __init__(self, pids: Sequence[int], every: float = 0.05) -> None:
        self._families = {pid: [member.pid for member in family(pid)] for pid in pids}
        self.peaks = {pid: 0.0 for pid in pids}
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for head, members in self._families.items():
                self.peaks[head] = max(self.peaks[head], pss_of(members))
            if self._over.wait(self._every):
                return
