"""Which files may import, read, start and print what. The tables are the rules; exceptions have reasons."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source import MODULES, ROOMS, Function, Module, Rule, keep

MAY_IMPORT = {"swarm": {"swarm"}, "averaging": {"swarm", "averaging"}, "peer": {"swarm", "averaging", "peer"}}

TOP_LEVEL = "the top level"
"""The files of peer/ that are in no package: loop, peer, ports."""
TRAINING = {"storage", "models", "chunks", "data", "training"}
SYNC = TRAINING | {"network", "observe", "sync"}
ROUNDS = SYNC | {"rounds"}
PEER = ROUNDS | {"config", "dashboard", TOP_LEVEL}

MAY_IMPORT_IN_PEER = {
    "storage": {"storage"},
    "models": {"models"},
    "network": {"network"},
    "chunks": {"storage", "chunks"},
    "config": {"models", "config"},
    "data": {"storage", "chunks", "data"},
    "training": TRAINING,
    "observe": {"observe"},
    "dashboard": {"observe", "dashboard"},
    "sync": SYNC,
    "rounds": ROUNDS,
    TOP_LEVEL: PEER,
    "app": PEER | {"app"},
    "simulation": PEER | {"simulation"},
    "commands": PEER | {"app", "simulation", "commands"},
}
"""What each package of peer/ may know of the others."""

STARTS_THE_PROGRAM = "peer/__main__.py"
"""Calls the command line, and is called by none of the others."""

ADDRESSES = {
    "aiohttp": ("swarm/transport/", "peer/observe/status_page.py"),
    "blake3": ("swarm/hashing.py",),
    "click": ("peer/commands/",),
    "cryptography": ("swarm/identity.py", "swarm/transport/tls.py"),
    "google": ("swarm/dht/",),  # hivemind's messages
    "hivemind": ("swarm/dht/",),
    "msgspec": ("swarm/", "averaging/", "peer/"),
    "numpy": ("averaging/", "peer/"),
    "psutil": ("peer/",),
    "rich": ("peer/dashboard/", "peer/commands/"),
    "safetensors": ("peer/training/checkpoint.py",),
    "torch": ("averaging/", "peer/"),
    "yarl": ("swarm/transport/",),  # aiohttp's addresses
}
"""Each outside library and the only places that know it. One that is not here is not a dependency."""

CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
}
CLOCKS |= {
    "time.process_time",
    "time.sleep",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
}

MAY_READ_A_CLOCK = {
    "swarm/dht/storage.py": "the default of the clock that tests hand in: hivemind gives the storage no time",
    "peer/observe/metrics.py": "events of the status page carry the time of day",
    "peer/dashboard/app.py": "how long the status page has been silent, for the person before the screen",
    "peer/app/demo.py": "how long the demonstration took, for the person who watched it",
    "peer/app/node.py": "the edge: gives the peer its clocks, and compares this computer's with others",
    "peer/simulation/run.py": "how much real time a rehearsal took, beside its virtual time",
    "peer/simulation/sweep.py": "how much real time many rehearsals took",
    "peer/observe/reporter.py": "lines of the log carry the time of day",
}

MAY_START_THREADS = {
    "peer/training/compute.py": "the one thread for arithmetic",
    "swarm/dht/node.py": "hivemind's import takes seconds",
    "swarm/dht/p2p.py": "opening a long bundle is a tenth of a second of signatures",
    "peer/app/demo.py": "reads its children's files while they still run",
    "peer/simulation/run.py": "a population is rehearsed in two processes",
    "peer/simulation/sweep.py": "many seeds are rehearsed on all cores",
}
THREADS = {
    "asyncio.to_thread",
    "threading.Thread",
    "threading.Timer",
    "multiprocessing",
    "concurrent.futures.ThreadPoolExecutor",
}
THREADS |= {"concurrent.futures.ProcessPoolExecutor", "concurrent.futures.thread.ThreadPoolExecutor"}

MAY_PRINT = ("peer/commands/", "peer/dashboard/", "peer/app/demo.py", "peer/observe/reporter.py")

UNSAFE = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "numpy.load",
    "pickle",
    "marshal",
    "shelve",
    "dill",
}


def rooms_open_one_way(module: Module) -> Iterator[str]:
    for found in module.imports:
        room = found.name.partition(".")[0]
        if room in ROOMS and room not in MAY_IMPORT[module.room]:
            yield f"{module.path}:{found.line}: {module.room} may not import {room}"
        if room == "tests":
            yield f"{module.path}:{found.line}: what is shipped may not import tests"


def packages_of_peer_open_one_way(module: Module) -> Iterator[str]:
    if module.room != "peer" or module.path == STARTS_THE_PROGRAM:
        return
    folders = module.path.split("/")[1:-1]
    package = folders[0] if folders else TOP_LEVEL
    if package not in MAY_IMPORT_IN_PEER:
        yield f"{module.path}:1: {package} has no row in the table of the packages of peer/"
        return
    for found in module.imports:
        room, _, rest = found.name.partition(".")
        first = rest.partition(".")[0]
        other = first if first in MAY_IMPORT_IN_PEER else TOP_LEVEL
        if room == "peer" and other not in MAY_IMPORT_IN_PEER[package]:
            yield f"{module.path}:{found.line}: in peer/, {package} may not import {other}"


def libraries_stay_at_their_address(module: Module) -> Iterator[str]:
    for found in module.imports:
        library = found.name.partition(".")[0]
        if library in ROOMS or library in sys.stdlib_module_names:
            continue
        if not module.path.startswith(ADDRESSES.get(library, ())):
            addresses = " or ".join(ADDRESSES.get(library, ["nobody"]))
            yield f"{module.path}:{found.line}: {library} belongs to {addresses}"


def hivemind_comes_late(module: Module) -> Iterator[str]:
    for found in module.imports:
        if found.name.partition(".")[0] in ("hivemind", "google") and not found.is_lazy:
            advice = "do it where it is needed, inside a function"
            yield f"{module.path}:{found.line}: hivemind takes seconds to import: {advice}"


def time_comes_from_outside(module: Module) -> Iterator[str]:
    if module.path not in MAY_READ_A_CLOCK:
        yield from (
            f"{module.path}:{line}: reads {name}; time is handed in"
            for name, line in module.uses
            if name in CLOCKS
        )


def threads_have_one_home(module: Module) -> Iterator[str]:
    if module.path not in MAY_START_THREADS:
        for name, line in module.uses:
            if name in THREADS or name.endswith(".run_in_executor"):
                yield f"{module.path}:{line}: {name}; arithmetic goes through swarm.machine.Arithmetic"


def chance_has_a_seed(module: Module) -> Iterator[str]:
    seeded = {
        id(node.func) for node in module.nodes if isinstance(node, ast.Call) and (node.args or node.keywords)
    }
    hints = {
        id(part)
        for node in module.nodes
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation
        for part in ast.walk(node.annotation)
    } | {id(node.returns) for node in module.nodes if isinstance(node, Function)}
    for node in module.nodes:
        name = module.dotted(node)
        if name.startswith(("random.", "numpy.random.")) and not (
            name == "random.Random" and id(node) in seeded | hints
        ):
            yield f"{module.path}:{node.lineno}: {name} draws without a seed; see swarm/seeds.py"


def nothing_runs_strangers_bytes(module: Module) -> Iterator[str]:
    for name, line in [*module.uses, *((found.name, found.line) for found in module.imports)]:
        if name in UNSAFE or name.partition(".")[0] in UNSAFE:
            yield f"{module.path}:{line}: {name} can run what is in the bytes"


def no_assert_guards_anything(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.Assert):
            advice = "raise an error of swarm.errors"
            yield f"{module.path}:{node.lineno}: assert vanishes under python -O: {advice}"


def only_the_command_line_prints(module: Module) -> Iterator[str]:
    if not module.path.startswith(MAY_PRINT):
        yield from (
            f"{module.path}:{line}: prints"
            for name, line in module.uses
            if name in ("print", "sys.stdout.write", "click.echo")
        )


RULES: list[Rule] = [
    rooms_open_one_way,
    packages_of_peer_open_one_way,
    libraries_stay_at_their_address,
    hivemind_comes_late,
    time_comes_from_outside,
    threads_have_one_home,
    chance_has_a_seed,
    nothing_runs_strangers_bytes,
    no_assert_guards_anything,
    only_the_command_line_prints,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rooms_keep(rule: Rule) -> None:
    keep(rule)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (rooms_open_one_way, "swarm/a.py", "def f():\n    import peer.loop"),
        (rooms_open_one_way, "averaging/a.py", "from peer import loop"),
        (rooms_open_one_way, "peer/a.py", "from tests import playbook"),
        (packages_of_peer_open_one_way, "peer/network/a.py", "from ..sync.head import Head"),
        (packages_of_peer_open_one_way, "peer/observe/a.py", "from peer.rounds import stages"),
        (
            packages_of_peer_open_one_way,
            "peer/sync/a.py",
            "def f():\n    from ..rounds.stages import RoundStages",
        ),
        (packages_of_peer_open_one_way, "peer/rounds/a.py", "from ..ports import Ports"),
        (packages_of_peer_open_one_way, "peer/training/a.py", "from .. import loop"),
        (packages_of_peer_open_one_way, "peer/data/__init__.py", "from ..training import state"),
        (packages_of_peer_open_one_way, "peer/peer.py", "from .app import node"),
        (packages_of_peer_open_one_way, "peer/app/a.py", "import peer.simulation.run"),
        (packages_of_peer_open_one_way, "peer/new/a.py", "import json"),
        (libraries_stay_at_their_address, "swarm/a.py", "from torch import Tensor"),
        (libraries_stay_at_their_address, "peer/a.py", "import aiohttp"),
        (libraries_stay_at_their_address, "peer/a.py", "def f():\n    from requests import get"),
        (hivemind_comes_late, "swarm/dht/node.py", "from hivemind.dht.node import DHTNode"),
        (time_comes_from_outside, "swarm/a.py", "import time as t\nclock = t.monotonic"),
        (time_comes_from_outside, "swarm/a.py", "from datetime import datetime\nnow = datetime.now()"),
        (
            threads_have_one_home,
            "peer/a.py",
            "async def f(loop):\n    await loop.run_in_executor(None, print)",
        ),
        (
            threads_have_one_home,
            "peer/a.py",
            "from concurrent.futures import ThreadPoolExecutor as Pool\nPool(1)",
        ),
        (chance_has_a_seed, "swarm/a.py", "import random\nrandom.shuffle([])"),
        (chance_has_a_seed, "swarm/a.py", "from random import Random\nRandom()"),
        (nothing_runs_strangers_bytes, "peer/a.py", "import torch\ntorch.load('x', weights_only=True)"),
        (nothing_runs_strangers_bytes, "peer/a.py", "from pickle import loads"),
        (nothing_runs_strangers_bytes, "peer/a.py", "eval('1')"),
        (no_assert_guards_anything, "swarm/a.py", "def f(x):\n    assert x"),
        (only_the_command_line_prints, "peer/a.py", "print(1)"),
    ],
)
def test_an_offence_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (rooms_open_one_way, "peer/a.py", "import swarm.wire, averaging.round"),
        (
            packages_of_peer_open_one_way,
            "peer/sync/a.py",
            "from ..network.membership import ASKED\nfrom . import head",
        ),
        (
            packages_of_peer_open_one_way,
            "peer/peer.py",
            "from .ports import Ports\nfrom .rounds import stages",
        ),
        (
            packages_of_peer_open_one_way,
            "peer/app/a.py",
            "from ..ports import Ports\nfrom ..dashboard import app",
        ),
        (
            packages_of_peer_open_one_way,
            "peer/commands/a.py",
            "from ..app import node\nfrom ..simulation import run",
        ),
        (packages_of_peer_open_one_way, "peer/__main__.py", "from .commands.cli import main"),
        (packages_of_peer_open_one_way, "peer/models/a.py", "import swarm.wire, averaging.round"),
        (libraries_stay_at_their_address, "averaging/a.py", "import json\nfrom torch import Tensor"),
        (hivemind_comes_late, "swarm/dht/node.py", "def f():\n    import hivemind"),
        (time_comes_from_outside, "swarm/a.py", "def f(loop, datetime):\n    loop.time()"),
        (chance_has_a_seed, "swarm/a.py", "import random\nchance = random.Random(7)\nchance.random()"),
        (chance_has_a_seed, "swarm/a.py", "import random\ndef f(chance: random.Random): ..."),
        (nothing_runs_strangers_bytes, "peer/a.py", "import re\nre.compile('x')\nmodel.eval()"),
    ],
)
def test_what_is_allowed_is_not_an_offence(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text))) == []


@pytest.mark.parametrize("table", [MAY_READ_A_CLOCK, MAY_START_THREADS], ids=["clocks", "threads"])
def test_no_exception_outlives_its_file(table: dict[str, str]) -> None:
    assert table.keys() <= {module.path for module in MODULES}


def test_the_table_of_packages_is_that_of_the_folders() -> None:
    paths = [module.path.split("/") for module in MODULES if module.room == "peer"]
    folders = {path[1] for path in paths if len(path) > 2}
    assert MAY_IMPORT_IN_PEER.keys() == folders | {TOP_LEVEL}
