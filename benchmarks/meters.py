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
    """The process and all its descendants, those that still run."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of CPU, in ticks of 10 ms, that the running processes of these families have used so far."""
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
    """Seconds for which the cores of this machine have worked, added up."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def sent_bytes(interface: str = "lo") -> int:
    """Bytes that ``interface`` has sent, packet heads included, from all programs.

    Raises `ValueError` where there is no such interface.
    """
    counters = psutil.net_io_counters(pernic=True)
    if interface not in counters:
        raise ValueError(f"there is no interface {interface}")
    return int(counters[interface].bytes_sent)


def pss_of(pids: Sequence[int]) -> float:
    """Proportional set size of processes in 10⁶ bytes: shared pages are divided among their users."""
    return sum(_figure(pid, "smaps_rollup", "Pss") for pid in pids)


def peak_rss_of(pid: int) -> float:
    """Sum of a family's largest resident sets since `forget_peaks`, in 10⁶ bytes."""
    return sum(_figure(process.pid, "status", "VmHWM") for process in family(pid))


def forget_peaks(pids: Sequence[int]) -> None:
    """Have the kernel count peaks from now on."""
    for process in [process for pid in pids for process in family(pid)]:
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        except OSError:  # it ended, or belongs to another user: then its peak is that since its start
            continue


def _figure(pid: int, file: str, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0.0
    kib = next((line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:")), "0")
    return int(kib) * _KIB / _MEGA


class MemoryWatch:
    """Reads the memory of families until the context ends; ``peaks``: each one's largest PSS in 10⁶ bytes.

    Only processes that run at the start count. Reading costs CPU: do not use it in a timed round.
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
