"""From curves and costs to what was reached when, and which promises hold. Pure: nothing here runs or measures anything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .curves import Curve, Points
from .methods import METHODS, PRESETS, RIVALS, Kind
from .wire import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method on one link, one seed. ``bits_per_byte`` at the end of the run; None for what was never reached."""

    method: str
    link_mbit: float
    seed: int
    bits_per_byte: float
    seconds_to_target: float | None
    bytes_to_target: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One promise, beside what was found; ``holds`` is None where it could not be looked at."""

    promise: str
    found: str
    holds: bool | None


def crossing(points: Points, target: float) -> float | None:
    """The step at which a curve first is at ``target`` or below, linear between its points; None where it never is."""
    before: tuple[int, float] | None = None
    for step, bits in points:
        if bits <= target:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - bits)
        before = (step, bits)
    return None


def targets_of(curves: Mapping[str, Sequence[Curve]]) -> dict[int, float]:
    """The default target of each seed: the lowest loss that every preset comes to with it, rounded up to a hundredth.

    Of a higher one all would be compared in the first steps of a run, where it matters least how often they average. Seeds draw
    other text, so what is low for one is high for another.
    """
    ends: dict[int, list[float]] = {}
    for curve in (curve for name in PRESETS for curve in curves.get(name, ())):
        ends.setdefault(curve.task.seed, []).append(curve.final)
    return {seed: math.ceil(max(finals) * 100) / 100 for seed, finals in sorted(ends.items())}


def rows(
    curves: Mapping[str, Sequence[Curve]],
    costs: Iterable[Cost],
    targets: Mapping[int, float],
    step_seconds: float,
) -> list[Row]:
    """A row for every seed of every method on every link; a lone peer talks to nobody and is the same on all."""
    costs = list(costs)
    links = sorted({cost.mbit for cost in costs}, reverse=True)
    made = []
    for method, drawn in curves.items():
        by_link = {cost.mbit: cost for cost in costs if cost.method == method}
        for mbit in links:
            cost = by_link.get(mbit)
            if cost is None and METHODS[method].kind is not Kind.ALONE:
                continue
            aims = ((curve, targets[curve.task.seed]) for curve in drawn if curve.task.seed in targets)
            made += [_row(curve, mbit, cost, target, step_seconds) for curve, target in aims]
    return made


def _row(curve: Curve, mbit: float, cost: Cost | None, target: float, step_seconds: float) -> Row:
    reached = crossing(curve.points, target)
    each = METHODS[curve.task.method].steps
    rounds = (
        None if reached is None else math.ceil(reached / each - 1e-9)
    )  # the shared model changes at the ends of rounds only
    wait, size = (cost.seconds, cost.bytes) if cost else (0.0, 0.0)
    return Row(
        method=curve.task.method,
        link_mbit=mbit,
        seed=curve.task.seed,
        bits_per_byte=curve.final,
        seconds_to_target=None if rounds is None else rounds * (each * step_seconds + wait),
        bytes_to_target=None if rounds is None else rounds * size,
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean; None where there is nothing, or one of them was never reached."""
    found = list(values)
    reached = [value for value in found if value is not None]
    return statistics.fmean(reached) if reached and len(reached) == len(found) else None


def seconds(table: Sequence[Row], method: str, mbit: float) -> float | None:
    """Mean seconds to the target of ``method`` on a link."""
    return mean_of(row.seconds_to_target for row in table if row.method == method and row.link_mbit == mbit)


def fastest(table: Sequence[Row], methods: Iterable[str], mbit: float) -> tuple[str, float] | None:
    """Who of ``methods`` reaches the target first on a link, and when; None where nobody does."""
    times = [(when, method) for method in methods if (when := seconds(table, method, mbit)) is not None]
    return (min(times)[1], min(times)[0]) if times else None


# --- promises -----------------------------------------------------------------------------------------------


def findings(
    curves: Mapping[str, Sequence[Curve]], costs: Sequence[Cost], table: Sequence[Row]
) -> list[Finding]:
    """All promises about loss and links, in the order of the documents."""
    final = {
        method: statistics.fmean(curve.final for curve in drawn) for method, drawn in curves.items() if drawn
    }
    links = sorted({row.link_mbit for row in table})
    return [*_about_loss(final), *_about_bytes(curves, costs), *(_about_links(table, links) if links else ())]


Final = Mapping[str, float]
"""By method, bits per byte at the end: the mean over the seeds."""


def _gap(
    promise: str, final: Final, one: str, other: str, *, least: float = -math.inf, most: float = math.inf
) -> Finding:
    """``one`` minus ``other`` in bits per byte, within the bounds."""
    if one not in final or other not in final:
        return Finding(promise=promise, found=f"{one} or {other} was not run", holds=None)
    gap = final[one] - final[other]
    found = f"{gap:+.3f} ({one} {final[one]:.3f}, {other} {final[other]:.3f})"
    return Finding(promise=promise, found=found, holds=least <= gap <= most)


def _about_loss(final: Final) -> list[Finding]:
    together = [final[name] for name in ("synchronous-fp32", "synchronous-fp16") if name in final]
    promise = "sparse 256 keeps at least 40 % of what data parallel gains over a lone peer"
    if together and {"alone", "swarm-sparse256"} <= final.keys():
        kept = (final["alone"] - final["swarm-sparse256"]) / (final["alone"] - min(together))
        found = f"{kept:.0%} (alone {final['alone']:.3f}, sparse {final['swarm-sparse256']:.3f}, data parallel {min(together):.3f})"
        first = Finding(promise=promise, found=found, holds=kept >= 0.4)
    else:
        first = Finding(promise=promise, found="not run", holds=None)
    return [
        first,
        _gap("int4 within 0.03 bits per byte of fp32", final, "swarm-int4", "swarm-fp32", most=0.03),
        _gap(
            "error feedback gains at least 0.1",
            final,
            "swarm-sparse256-no-feedback",
            "swarm-sparse256",
            least=0.1,
        ),
        _gap(
            "a quarter of the peers dropped: at least 0.2 better than alone",
            final,
            "alone",
            "swarm-int4-dropped",
            least=0.2,
        ),
        _gap("the same, dropped in the middle of the averaging", final, "alone", "swarm-int4-cut", least=0.2),
    ]


def _about_bytes(curves: Mapping[str, Sequence[Curve]], costs: Sequence[Cost]) -> list[Finding]:
    promise = "sparse 256 sends at least 100 times less than data parallel in fp32 over the same steps"
    mbit = min((cost.mbit for cost in costs), default=0.0)
    per_step = {cost.method: cost.bytes / METHODS[cost.method].steps for cost in costs if cost.mbit == mbit}
    whole = {
        method: size * curves[method][0].points[-1][0]
        for method, size in per_step.items()
        if curves.get(method)
    }
    if not {"synchronous-fp32", "swarm-sparse256"} <= whole.keys():
        return [Finding(promise=promise, found="not measured", holds=None)]
    ratio = whole["synchronous-fp32"] / whole["swarm-sparse256"]
    found = f"{ratio:.0f} times ({whole['synchronous-fp32'] / 1e6:.1f} MB, {whole['swarm-sparse256'] / 1e6:.2f} MB a peer)"
    return [Finding(promise=promise, found=found, holds=ratio >= 100)]


def _about_links(table: Sequence[Row], links: Sequence[float]) -> list[Finding]:
    slow, fast = links[0], links[-1]
    rivals = [name for name, method in METHODS.items() if method.kind in RIVALS]
    found = [
        _sooner(table, slow, rivals, 4, "hivemind.Optimizer in float16, at its best"),
        _sooner(table, slow, ["synchronous-fp32"], 5, "synchronous data parallel in fp32"),
        _sooner(table, slow, ["synchronous-fp16"], 5, "synchronous data parallel in fp16"),
    ]
    winners = {mbit: best for mbit in links if (best := fastest(table, PRESETS, mbit))}
    said = "; ".join(
        f"{name} at {mbit:g} Mbit/s ({_times(table, winners, mbit)})" for mbit, (name, _) in winners.items()
    )
    differ = winners[slow][0] != winners[fast][0] if slow != fast and {slow, fast} <= winners.keys() else None
    return [
        *found,
        Finding(
            promise="another preset wins on the fastest link than on the slowest",
            found=said or "none",
            holds=differ,
        ),
    ]


def _times(table: Sequence[Row], winners: Mapping[float, tuple[str, float]], mbit: float) -> str:
    """How long all who win somewhere take on one link."""
    names = sorted({name for name, _ in winners.values()})
    return ", ".join(
        f"{name} {when:.1f} s" for name in names if (when := seconds(table, name, mbit)) is not None
    )


def _sooner(table: Sequence[Row], mbit: float, rivals: Sequence[str], times: float, who: str) -> Finding:
    promise = f"at {mbit:g} Mbit/s the best preset is at the target {times:g} times sooner than {who}"
    ours, theirs = fastest(table, PRESETS, mbit), _at_their_best(table, rivals, mbit)
    if ours is None or not any(row.method in rivals and row.link_mbit == mbit for row in table):
        return Finding(promise=promise, found="not measured", holds=None)
    if theirs is None:
        return Finding(promise=promise, found=f"{ours[0]} after {ours[1]:.1f} s, the other never", holds=True)
    found = f"{theirs[1] / ours[1]:.1f} times ({ours[0]} {ours[1]:.1f} s, {theirs[0]} {theirs[1]:.1f} s)"
    return Finding(promise=promise, found=found, holds=theirs[1] / ours[1] >= times)


def _at_their_best(table: Sequence[Row], rivals: Sequence[str], mbit: float) -> tuple[str, float] | None:
    """Mean seconds to the target if each seed takes the one of ``rivals`` that is first with it; None if one seed has none."""
    firsts: dict[int, tuple[float, str]] = {}
    seeds = {row.seed for row in table}
    for row in table:
        if row.method in rivals and row.link_mbit == mbit and row.seconds_to_target is not None:
            firsts[row.seed] = min(firsts.get(row.seed, (math.inf, "")), (row.seconds_to_target, row.method))
    if not seeds or firsts.keys() != seeds:
        return None
    return " or ".join(sorted({method for _, method in firsts.values()})), statistics.fmean(
        when for when, _ in firsts.values()
    )
