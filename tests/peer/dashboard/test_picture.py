"""The README's picture is what the command draws, free of test strings, and inside its frame."""

from __future__ import annotations

import html
import re
from datetime import UTC
from pathlib import Path

import pytest

from peer.dashboard import picture
from peer.dashboard.picture import README_PICTURE, README_SIZE, sample_snapshot, svg_of
from peer.dashboard.theme import HEALTH, STATES
from peer.dashboard.view import Look
from tests.peer.dashboard.pictures import a_snapshot

ROOT = Path(__file__).parents[3]
TEXT = re.compile(r'<text class="[^"]*" x="([^"]*)" y="([^"]*)" textLength="([^"]*)"[^>]*>([^<]*)</text>')


def texts_of(svg: str) -> list[tuple[float, float, float, str]]:
    """x, y, length and characters of every run of text in the picture."""
    return [
        (float(x), float(y), float(length), html.unescape(text)) for x, y, length, text in TEXT.findall(svg)
    ]


def rows_of(svg: str) -> list[str]:
    """The characters of the picture, line by line, without blanks."""
    rows: dict[float, str] = {}
    for _, y, _, text in texts_of(svg):
        rows[y] = rows.get(y, "") + re.sub(r"\s", "", text)
    return [rows[y] for y in sorted(rows)]


def drawn() -> str:
    return svg_of(sample_snapshot(), *README_SIZE, look=Look(zone=UTC))


def test_the_committed_picture_is_what_the_command_draws() -> None:
    committed = (ROOT / README_PICTURE).read_text(encoding="utf-8")
    assert rows_of(committed) == rows_of(drawn()), "python -m peer.dashboard.picture draws it again"


def test_the_command_writes_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["picture", str(tmp_path / "top.svg")])
    picture.main()
    assert (tmp_path / "top.svg").read_text(encoding="utf-8") == drawn()


def test_the_picture_shows_states_of_today_and_nothing_from_the_tests() -> None:
    snapshot = sample_snapshot()
    assert {row.state for row in snapshot.peers} <= set(STATES)
    assert snapshot.health in HEALTH
    text = "\n".join(rows_of(drawn()))
    assert "stories" in text
    assert not re.search(r"\[red\]|markup|STALLED|banned|nonsense", text)


def test_every_run_of_text_stays_inside_the_frame() -> None:
    svg = drawn()
    width = float(re.findall(r'<rect x="0" y="0" width="([0-9.]+)"', svg)[0])
    assert all(x + length <= width + 1.5 for x, _, length, _ in texts_of(svg))


def test_characters_of_other_fonts_are_scaled_to_their_cells() -> None:
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)</text>", drawn()):
        if "textLength" in attributes and not html.unescape(text).replace("\xa0", "").isascii():
            assert 'lengthAdjust="spacingAndGlyphs"' in attributes


def test_the_picture_loads_nothing_from_elsewhere() -> None:
    svg = svg_of(a_snapshot(), 120, 34)
    assert svg.startswith("<svg")
    assert "tiny-gpt-30m" in svg
    assert "@font-face" not in svg
    assert "url(http" not in svg
