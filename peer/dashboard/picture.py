"""The dashboard as an SVG file: ``python -m peer.dashboard.picture`` draws the one in the README.

rich lays the text out for a terminal, where every character is as wide as every other. A browser takes
braille and box characters from whatever font has them, often wider ones. So each run of such characters is
told its exact width, and scaled to it.
"""

from __future__ import annotations

import io
import math
import random
import re
import sys
from datetime import UTC
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console

from swarm.identity import PeerId, peer_id_from_digest, petname

from ..observe.snapshot import LoggedEvent, PeerRow, Point, Snapshot
from .view import Look, view

README_PICTURE = Path("docs/dashboard.svg")
"""Where ``python -m peer.dashboard.picture`` writes to, seen from the root of the repository."""
README_SIZE = (112, 30)
"""Columns and lines of it."""

_FONTS = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
_TEXT = re.compile(
    r'<text class="([^"]*)" x="([^"]*)" y="([^"]*)" textLength="([^"]*)"([^>]*)>([^<]*)</text>'
)
"""One run of text in rich's SVG: class, x, y, length, other attributes, characters (escaped)."""
_ESCAPED = re.compile(r"&[^;]+;|.")
"""One character of an SVG text: as it is, or escaped."""


def svg_of(snapshot: Snapshot, width: int, height: int, *, look: Look | None = None) -> str:
    """Return the picture of ``snapshot`` as SVG.

    It loads nothing from elsewhere: its font is the reader's monospace.
    """
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(view(snapshot, width, height, look=look), end="")
    svg = console.export_svg(title="swarm top", unique_id="dashboard")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", _FONTS)
    svg = _TEXT.sub(_with_exact_widths, svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _with_exact_widths(match: re.Match[str]) -> str:
    """Split one run of text into ASCII and other characters; give each piece its place and width."""
    style, x, y, length, other, text = match.groups()
    characters = _ESCAPED.findall(text)
    cell = float(length) / max(1, sum(_cells(character) for character in characters))
    place = float(x)
    pieces = []
    for is_ascii, group in groupby(characters, key=_is_ascii):
        piece = list(group)
        piece_length = cell * sum(_cells(character) for character in piece)
        scaling = "" if is_ascii else ' lengthAdjust="spacingAndGlyphs"'
        pieces.append(
            f'<text class="{style}" x="{place:.1f}" y="{y}" textLength="{piece_length:.1f}"{scaling}{other}>'
            f"{''.join(piece)}</text>"
        )
        place += piece_length
    return "".join(pieces)


def _is_ascii(character: str) -> bool:
    """Whether a character of an SVG text is ASCII. Escaped ones are, such as the non-breaking blank."""
    return character.startswith("&") or character.isascii()


def _cells(character: str) -> int:
    return 1 if character.startswith("&") else cell_len(character)


def sample_snapshot() -> Snapshot:
    """Return the snapshot of an imagined run of four peers, the same at each call."""
    chance = random.Random(3)
    rounds = range(1, 213)
    scores = [2.05 + 5.6 * math.exp(-round_ / 26) for round_ in rounds]
    nats = [math.log(2) * score + chance.gauss(0, 0.025) for score in scores]
    sent = [max(0.0, 1.5e6 * math.sin(second / 4) + chance.gauss(0, 1e5)) for second in range(60)]
    received = [max(0.0, 1.4e6 * math.sin(second / 4 - 0.4) + chance.gauss(0, 1e5)) for second in range(60)]
    return Snapshot(
        run="3fa91c" + "0" * 58,
        run_name="stories",
        model="gpt 8x384",
        parameters=10_700_000,
        version="0.1.0",
        peer=peer_called("otter-7f3a"),
        health="HEALTHY",
        uptime=8040.0,
        round=212,
        rounds=500,
        tokens=212 * 98_304,
        seconds_left=9_560.0,
        phase="training",
        step=31,
        max_steps=48,
        phase_left=11.0,
        codec="int4",
        relaxation="safe: int4, butterfly, every 30 s",
        losses=tuple(Point(round_, loss) for round_, loss in zip(rounds, nats, strict=True)),
        evaluations=tuple(Point(round_, scores[round_ - 1]) for round_ in rounds if round_ % 4 == 0),
        members=4,
        average_seconds=2.1,
        round_seconds=33.2,
        bytes_up=2_310_000_000,
        bytes_down=2_280_000_000,
        up=tuple(sent),
        down=tuple(received),
        cpu=3.8,
        cores=4,
        memory=1_240_000_000,
        memory_total=8_000_000_000,
        given_seconds=7_900.0,
        given_tokens=3_120_000,
        given_rounds=209,
        state_root="9b1f0c77aa" + "0" * 54,
        peers=_sample_peers(),
        events=_sample_events(),
        checkpoint="round-00000200.safetensors",
    )


def peer_called(name: str) -> PeerId:
    """Return the id of an imagined peer whose animal's name is ``name``."""
    tail = bytes.fromhex(name[-4:]) + bytes(29)
    ids = (peer_id_from_digest(bytes([first]) + tail) for first in range(256))
    return next(peer for peer in ids if petname(peer) == name)


def _sample_peers() -> tuple[PeerRow, ...]:
    return (
        _sample_peer("otter-7f3a", 1_480.0, 1.0, is_me=True),
        _sample_peer("heron-02c1", 3_900.0, 2.0),
        _sample_peer("lynx-b9d0", 2_450.0, 1.0, state="averaging"),
        _sample_peer("moth-55aa", 420.0, 4.0, state="slow"),
    )


def _sample_peer(
    name: str, speed: float, seen_seconds: float, *, state: str = "training", is_me: bool = False
) -> PeerRow:
    """Return one row; ``speed`` in tokens per second, of 8,250 in all."""
    return PeerRow(
        peer=peer_called(name),
        name=name,
        state=state,
        device="cpu",
        round=212,
        tokens_per_second=speed,
        up=330e3 + 40 * speed,
        down=340e3 + 35 * speed,
        share=speed / 8_250,
        seen_seconds=seen_seconds,
        loss=1.43 + 20 / speed,
        is_me=is_me,
    )


def _sample_events() -> tuple[LoggedEvent, ...]:
    now = 1_790_000_047.0
    averaged = "averaged with 4 of 4 peers in 2.1 s (10.8 MB up)"
    return (
        LoggedEvent(time=now - 71, severity="info", text="moth-55aa joined"),
        LoggedEvent(time=now - 67, severity="info", text=f"round 210 {averaged}"),
        LoggedEvent(time=now - 33, severity="info", text=f"round 211 {averaged}"),
        LoggedEvent(time=now, severity="info", text=f"round 212 {averaged}"),
    )


def main() -> None:
    """Write the README's picture to the file that the first argument names, or to `README_PICTURE`."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else README_PICTURE
    path.write_text(svg_of(sample_snapshot(), *README_SIZE, look=Look(zone=UTC)), encoding="utf-8")


if __name__ == "__main__":
    main()
