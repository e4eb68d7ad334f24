"""What the documents say is so: every command, option, event, field and error that they should name is there, and none too many."""

import inspect
import re
import runpy
from pathlib import Path

import click
import pytest

from peer.commands.main import cli
from peer.observe import snapshot as status
from peer.observe.reporter import RoundReport
from swarm import errors
from swarm.errors import SwarmError

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = (ROOT / "docs/contract.md").read_text()
ERRORS = (ROOT / "docs/errors.md").read_text()
README = (ROOT / "README.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
MODULES = [path for room in ("swarm", "averaging", "peer") for path in (ROOT / room).rglob("*.py")]

ALL_ERRORS = {
    kind.code: kind.exit_status
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, SwarmError)
}


def rows(text: str) -> list[list[str]]:
    """The cells of every table's rows."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_error_is_in_the_table_with_its_exit_status() -> None:
    table = {code: int(row[1]) for row in rows(ERRORS) if row[1].isdigit() for code in words(row[0])}
    assert table == ALL_ERRORS


def test_every_exit_status_is_explained() -> None:
    section = CONTRACT.split("## Exit codes")[1].split("## ")[0]
    explained = {int(row[0]) for row in rows(section) if row[0].isdigit()}
    assert {0, *ALL_ERRORS.values()} <= explained


def test_every_warning_of_the_code_is_in_the_table() -> None:
    section = ERRORS.split("## Codes of warnings")[1]
    told = {code for row in rows(section) for code in words(row[0])}
    said = {
        code for path in MODULES for code in re.findall(r'(?:warn|Report)\(\s*"([a-z-]+)"', path.read_text())
    }
    assert said
    assert said <= told


@pytest.mark.parametrize("name", cli.commands)
def test_the_contract_has_every_option_of_a_command(name: str) -> None:
    """`new` has those of `join`, too, and its row says so."""
    row = next(row for row in rows(CONTRACT) if row[0].startswith(f"`swarm {name}"))
    told = set(re.findall(r"--[a-z-]+", row[1]))
    if "and as `join`" in row[1]:
        told |= {
            option
            for param in cli.commands["join"].params
            if isinstance(param, click.Option)
            for option in param.opts
        }
    options = {
        option
        for param in cli.commands[name].params
        if isinstance(param, click.Option)
        for option in param.opts
    }
    assert told == options - {"-h", "--help"}


@pytest.mark.parametrize("name", cli.commands)
def test_the_contract_s_defaults_are_the_real_ones(name: str) -> None:
    row = next(row for row in rows(CONTRACT) if row[0].startswith(f"`swarm {name}"))
    defaults = {
        param.opts[0]: param.default for param in cli.commands[name].params if isinstance(param, click.Option)
    }
    for option, value in re.findall(r"`(--[a-z-]+)` ([a-z0-9.]+)", row[1]):
        assert str(defaults[option]).removesuffix(".0") == value, option


def test_the_contract_has_every_field_of_a_round() -> None:
    section = CONTRACT.split("The fields of `round`")[1].split("## ")[0]
    assert {field for row in rows(section) for field in words(row[0])} == set(RoundReport.__struct_fields__)


@pytest.mark.parametrize("form", [status.Snapshot, status.PeerRow, status.LoggedEvent, status.Fetching])
def test_the_contract_has_every_field_of_the_status_page(form: type[status.Snapshot]) -> None:
    section = CONTRACT.split("## The status page")[1].split("## ")[0]
    assert set(form.__struct_fields__) <= words(section)


def test_the_contract_has_every_event() -> None:
    section = CONTRACT.split("## JSON lines")[1].split("The fields of")[0]
    told = {event for row in rows(section) for event in words(row[0])}
    said = {
        event
        for path in MODULES
        if path.name not in ("chaos.py", "app.py")  # these tell people only
        for event in re.findall(r'(?:\.event|\.say|self\.say)\(\s*"([a-z]+)"', path.read_text())
    }
    assert told - {"round"} == said


def test_the_readme_names_every_file_of_the_rooms() -> None:
    """One phrase per file; a folder may stand for its files."""
    tree = README.split("## The files")[1]
    missing = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.name != "__init__.py" and path.name not in tree and f"{path.parent.name}/" not in tree
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_path_of_a_document_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    paths = {
        path
        for path in re.findall(r"`((?:swarm|averaging|peer|tests|docs|examples|benchmarks)/[\w/.-]+)`", text)
    }
    nowhere = [link for link in links if not (document.parent / link).exists()]
    assert nowhere + [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_can_be_imported(example: Path) -> None:
    assert "main" in runpy.run_path(str(example))


def test_rooms_introduce_themselves_in_a_page() -> None:
    for room in ("swarm", "averaging", "peer"):
        assert len((ROOT / room / "README.md").read_text().splitlines()) < 80
