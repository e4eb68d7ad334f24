"""Importing is free: it starts nothing, changes nothing, reads no environment, and does not bring what is not needed."""

import json
import os
import subprocess
import sys

import pytest

from .source import MODULES, ROOT

LIBRARIES = ["aiohttp.web", "click", "cryptography", "msgspec", "numpy", "psutil", "rich", "safetensors.torch", "torch"]
VALUES = [
    "swarm.errors", "swarm.identity", "swarm.wire", "swarm.seeds", "swarm.manifest", "swarm.ticket", "swarm.machine",
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
    while frame and "importlib" not in frame.f_code.co_filename:
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("swarm", "averaging", "peer"):
            reads.append(key)
        frame = frame.f_back
    return read(self, key)
os._Environ.__getitem__ = watched

def world():
    return {
        "the threads": sorted(thread.name for thread in threading.enumerate()),
        "the log handlers": [repr(handler) for handler in logging.root.handlers],
        "the log level": logging.root.level,
        "the warning filters": list(warnings.filters),
        "the signal handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "the environment": dict(os.environ),
        "the way out": sys.excepthook,
        "the reads of the environment": list(reads),
    }

def examine(module):
    before = world()
    importlib.import_module(module)
    after = world()
    changed = [what for what in before if before[what] != after[what]]
    return [f"{module} changes {what} when it is imported: {before[what]} -> {after[what]}" for what in changed]

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


def _python(program: str, *values: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, json.dumps(values)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, so that a hundred modules cost one start")
def test_every_module_can_be_imported_alone_and_leaves_the_world_as_it_was() -> None:
    names = [module.name for module in MODULES if not module.path.endswith("__main__.py")]
    done = _python(ALONE, LIBRARIES, names)
    assert done.returncode == 0, "\n" + done.stdout.strip() + done.stderr


@pytest.mark.parametrize(
    ("wanted", "unwanted"),
    [
        pytest.param(
            [module.name for module in MODULES if module.room == "swarm"], ["torch", "hivemind", "rich", "click"], id="all of swarm"
        ),
        pytest.param(VALUES, ["torch", "hivemind", "rich", "click", "aiohttp"], id="the values of swarm"),
        pytest.param(
            [module.name for module in MODULES if module.room == "averaging"], ["hivemind", "rich", "click"], id="all of averaging"
        ),
        pytest.param(["peer.cli"], ["torch", "hivemind", "numpy"], id="the command line"),
    ],
)
def test_what_is_not_needed_is_not_imported(wanted: list[str], unwanted: list[str]) -> None:
    done = _python(BROUGHT, wanted, unwanted)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
