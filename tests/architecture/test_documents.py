"""docs/architecture.md lists every file of the three rooms, and every package of peer/, as they are."""

import re
from collections.abc import Iterable

import pytest

from tests.architecture.source import MODULES, ROOT

TITLE = "## The files"
ENTRY = re.compile(r"(?P<indent> *)(?P<name>[\w.]+/?)(?: +(?P<phrase>\S.*))?")


def listed(text: str) -> dict[str, str]:
    """The phrase of every path in the indented list under `TITLE`. A folder's path ends with a slash."""
    block = text.split(TITLE)[1].split("```")[1]
    paths: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines()[1:]:
        entry = ENTRY.fullmatch(line.rstrip())
        if not entry:
            continue
        depth = len(entry["indent"]) // 2
        del folders[depth:]
        path = "".join(folders) + entry["name"]
        paths[path] = entry["phrase"] or ""
        if path.endswith("/"):
            folders.append(entry["name"])
    return paths


def real() -> set[str]:
    """Every Python file of the rooms; a package's `__init__.py` appears as the path of its folder."""
    return {module.path.removesuffix("__init__.py") for module in MODULES}


def differences(phrases: dict[str, str], files: Iterable[str]) -> list[str]:
    """One sentence for each line of the list that is missing, superfluous, or without a phrase."""
    expected = set(files)
    return [
        *(f'add a line for "{path}"' for path in sorted(expected - phrases.keys())),
        *(f'remove the line for "{path}"' for path in phrases if path not in expected),
        *(f'"{path}" needs a phrase' for path, phrase in phrases.items() if not phrase),
    ]


def packages_of_the_table(text: str) -> set[str]:
    section = text.split("## The packages of peer/")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+/)` \|", section, re.MULTILINE))


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/architecture.md").read_text()


def test_the_list_of_files_is_the_tree(page: str) -> None:
    found = differences(listed(page), real())
    assert found == [], f'docs/architecture.md, "{TITLE}":\n' + "\n".join(found)


def test_the_table_of_packages_has_every_package_of_peer(page: str) -> None:
    packages = {module.path.split("/")[1] for module in MODULES if re.fullmatch(r"peer/\w+/.*", module.path)}
    assert packages_of_the_table(page) == {f"{package}/" for package in packages}


TREE = """## The files

```text
swarm/          who
  wire.py       frames
  dht/          finding
    node.py     a node
  seeds.py
```
"""


def test_a_list_is_read_with_its_folders() -> None:
    assert listed(TREE) == {
        "swarm/": "who",
        "swarm/wire.py": "frames",
        "swarm/dht/": "finding",
        "swarm/dht/node.py": "a node",
        "swarm/seeds.py": "",
    }


def test_a_difference_says_which_line_to_add_remove_or_complete() -> None:
    files = {"swarm/", "swarm/wire.py", "swarm/dht/", "swarm/seeds.py", "swarm/ticket.py"}
    assert differences(listed(TREE), files) == [
        'add a line for "swarm/ticket.py"',
        'remove the line for "swarm/dht/node.py"',
        '"swarm/seeds.py" needs a phrase',
    ]
