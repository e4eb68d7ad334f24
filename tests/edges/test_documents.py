"""The documents name every command, option, event, field and error that exists, and no other."""

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
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")]
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
    """`new` also has the options of `join`, and its row says so."""
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
        if path.name not in ("chaos.py", "app.py")  # their events are for people only
        for event in re.findall(r'(?:\.event|\.say|self\.say)\(\s*"([a-z]+)"', path.read_text())
    }
    assert told - {"round"} == said


COMMANDS = re.compile(
    r"(?:^ {4,}(?:.*/bin/)?|`| -- )(?:[A-Z_]+=\S+ |nice )*swarm "
    r"((?:-h|--[a-z]+|[a-z]+)\b(?:(?! -- )[^`\n])*)",
    re.MULTILINE,
)
"""A call of `swarm` in a document: in an indented block, between backticks, or behind `swarm chaos --`."""

BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)((?:[^`\n]|\n +\[)*)")


def options_of(name: str) -> set[str]:
    params = cli.commands.get(name, cli).params
    options = {option for param in params if isinstance(param, click.Option) for option in param.opts}
    return options | {"-h", "--help"}


def wrong_calls(text: str) -> list[str]:
    """The calls of `swarm` in ``text`` whose command or whose options do not exist."""
    wrong = []
    for call in COMMANDS.findall(text):
        name = call.split()[0]
        unknown = set(re.findall(r"(?<![\w-])--[a-z-]+", call)) - options_of(name)
        if unknown or not (name in cli.commands or name.startswith("-")):
            wrong.append(call)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_and_option_in_a_document_exists(document: Path) -> None:
    assert wrong_calls(document.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "    swarm joyn TICKET",
        "`swarm new --port 7`",
        "    OMP_NUM_THREADS=1 nice swarm join T --fast",
        "`swarm chaos -- swarm jion T`",
    ],
)
def test_a_command_or_option_that_does_not_exist_is_found(text: str) -> None:
    assert wrong_calls(text) != []


def test_the_readme_and_the_pages_for_people_show_commands() -> None:
    for text in (README, (ROOT / "peer/README.md").read_text()):
        assert {call.split()[0] for call in COMMANDS.findall(text)} >= {"new", "join", "top"}


def test_every_benchmark_and_its_options_exist() -> None:
    calls = BENCHMARK.findall((ROOT / "docs/benchmarks.md").read_text())
    assert calls
    for name, options in calls:
        file, folder = ROOT / f"benchmarks/{name}.py", ROOT / f"benchmarks/{name}"
        source = "".join(path.read_text() for path in ([file] if file.exists() else folder.rglob("*.py")))
        missing = [option for option in re.findall(r"--[a-z-]+", options) if f'"{option}"' not in source]
        assert missing == [], name


def test_the_glossary_is_in_alphabetical_order_and_explains_a_word_once() -> None:
    terms = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY, re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)


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


SOURCES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("swarm", "averaging", "peer", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_file_that_a_document_names_exists(document: Path) -> None:
    """A document may name a file by the end of its path: `guard.py`, `transport/guard.py`."""
    named = set(re.findall(r"`([\w/]+\.py)`", document.read_text()))
    known = {name for name in named if any(f"/{path}".endswith(f"/{name}") for path in SOURCES)}
    assert named - known == set()


def test_every_test_that_a_document_names_exists() -> None:
    """The threat model names the tests of what it says."""
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = {name for path in DOCUMENTS for name in re.findall(r"`(test_\w+)`", path.read_text())}
    assert named
    assert named - tests == set()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_can_be_imported(example: Path) -> None:
    assert "main" in runpy.run_path(str(example))


def test_rooms_introduce_themselves_in_a_page() -> None:
    for room in ("swarm", "averaging", "peer"):
        assert len((ROOT / room / "README.md").read_text().splitlines()) < 80
