"""Importing is free: it starts nothing, changes nothing, reads no environment, and does not bring what is not
needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import MODULES, ROOT

LIBRARIES = [
    "aiohttp.web",
    "click",
    "cryptography",
    "msgspec",
    "numpy",
    "psutil",
    "rich",
    "safetensors.torch",
    "torch",
]
VALUES = [
    "swarm.errors", "swarm.identity", "swarm.wire", "swarm.seeds", "swarm.manifest", "swarm.ticket",
    "swarm.machine",
    "swarm.membership.contacts", "swarm.membership.progress", "swarm.transport", "swarm.dht.directory",
]  # fmt: skip

ALONE = """
import importlib, json, logging, os, signal, sys, threading, traceback, warnings

libraries, modules = json.loads(sys.argv[1])
for library in libraries:
    importlib.import_module(library)

reads = []
def watched(self, key, read=os._Environ.__getitem__):
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") in ("os", "collections.abc", "posixpath", "pathlib"):
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").partition(".")[0] in ("swarm", "averaging", "peer"):
        reads.append(key)
    return read(self, key)
os._Environ.__getitem__ = watched

def world():
    return {
        "the threads": sorted(thread.name for thread in threading.enumerate()),
        "the log handlers": [repr(handler) for handler in logging.root.handlers],
        "the log level": logging.root.level,
        "the warning filters": list(warnings.filters),
        "the signal handlers": [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
        ],
        "the environment": dict(os.environ),
        "the way out": sys.excepthook,
        "the reads of the environment": list(reads),
    }

def examine(module):
    before = world()
    importlib.import_module(module)
    after = world()
    changed = [what for what in before if before[what] != after[what]]
    return [
        f"{module} changes {what} when it is imported: {before[what]} -> {after[what]}" for what in changed
    ]

failures = 0
for module in modules:
    sys.stdout.flush()
    child = os.fork()  # every module alone: none of ours has been imported here
    if child == 0:
        try:
            found = examine(module)
        except BaseException:
            found = [f"{module} cannot be imported alone: {traceback.format_exc()}"]
        for line in found:
            print(line, flush=True)
        os._exit(bool(found))
    failures += os.waitpid(child, 0)[1] != 0
sys.exit(failures > 0)
"""

BROUGHT = """
import importlib, json, sys
wanted, unwanted = json.loads(sys.argv[1])
for module in wanted:
    importlib.import_module(module)
print(*(name for name in unwanted if name in sys.modules))
"""


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="forks, so that a hundred modules cost one start of Python"
)


def _python(program: str, *values: list[str], root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", program, json.dumps(values)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)


@needs_fork
def test_every_module_can_be_imported_alone_and_leaves_the_world_as_it_was() -> None:
    names = [module.name for module in MODULES if not module.path.endswith("__main__.py")]
    done = _python(ALONE, LIBRARIES, names)
    assert done.returncode == 0, "\n" + done.stdout.strip() + done.stderr


@needs_fork
@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "the threads",
        ),
        ("import logging\nlogging.basicConfig()", "the log handlers"),
        ("import warnings\nwarnings.simplefilter('ignore')", "the warning filters"),
        ("import signal\nsignal.signal(signal.SIGTERM, print)", "the signal handlers"),
        ("import os\nhome = os.environ.get('SWARM_HOME')", "SWARM_HOME"),
        ("from pathlib import Path\nhome = Path.home()", "HOME"),
        ("import nothing_of_the_kind", "cannot be imported alone"),
    ],
)
def test_an_offence_is_found(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "a.py").write_text(text)
    done = _python(ALONE, [], ["peer.a"], root=tmp_path)
    assert done.returncode == 1
    assert found in done.stdout


@pytest.mark.parametrize(
    ("wanted", "unwanted"),
    [
        pytest.param(
            [module.name for module in MODULES if module.room == "swarm"],
            ["torch", "hivemind", "rich", "click"],
            id="all of swarm",
        ),
        pytest.param(VALUES, ["torch", "hivemind", "rich", "click", "aiohttp"], id="the values of swarm"),
        pytest.param(
            [module.name for module in MODULES if module.room == "averaging"],
            ["hivemind", "rich", "click"],
            id="all of averaging",
        ),
        pytest.param(["peer.commands.main"], ["torch", "hivemind", "numpy"], id="the command line"),
    ],
)
def test_what_is_not_needed_is_not_imported(wanted: list[str], unwanted: list[str]) -> None:
    done = _python(BROUGHT, wanted, unwanted)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
