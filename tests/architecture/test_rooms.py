"""Who may import, read, start and say what, and where. The tables are the rules; an exception stands there with its reason."""

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.source import MODULES, ROOMS, Module, Rule, keep

MAY_IMPORT = {"swarm": {"swarm"}, "averaging": {"swarm", "averaging"}, "peer": {"swarm", "averaging", "peer"}}

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
    "swarm/dht/storage.py": "the default of the clock that its tests hand in: hivemind asks the storage without a time",
    "peer/observe/metrics.py": "events of the status page carry the time of day",
    "peer/dashboard/app.py": "how long the status page has been silent, for the person before the screen",
    "peer/app/demo.py": "how long the demonstration took, for the person who watched it",
    "peer/app/node.py": "the edge: gives the peer its clocks, and compares this computer's with those of others",
    "peer/simulation/run.py": "how much real time a rehearsal took, beside its virtual time",
    "peer/observe/reporter.py": "lines of the log carry the time of day",
}

MAY_START_THREADS = {
    "peer/training/compute.py": "the one thread for arithmetic",
    "swarm/dht/node.py": "hivemind's import takes seconds",
    "swarm/dht/p2p.py": "opening a long bundle is a tenth of a second of signatures",
    "peer/app/demo.py": "reads its children's files while they still run",
    "peer/simulation/run.py": "a population is rehearsed in two processes",
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


def libraries_stay_at_their_address(module: Module) -> Iterator[str]:
    for found in module.imports:
        library = found.name.partition(".")[0]
        if library in ROOMS or library in sys.stdlib_module_names:
            continue
        if not module.path.startswith(ADDRESSES.get(library, ())):
            yield f"{module.path}:{found.line}: {library} belongs to {' or '.join(ADDRESSES.get(library, ['nobody']))}"


def hivemind_comes_late(module: Module) -> Iterator[str]:
    for found in module.imports:
        if found.name.partition(".")[0] in ("hivemind", "google") and not found.is_lazy:
            yield f"{module.path}:{found.line}: hivemind takes seconds to import: do it where it is needed, inside a function"


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
    for node in module.nodes:
        name = module.dotted(node)
        if name.startswith(("random.", "numpy.random.")) and not (
            name == "random.Random" and id(node) in seeded
        ):
            yield f"{module.path}:{node.lineno}: {name} draws without a seed; see swarm/seeds.py"


def nothing_runs_strangers_bytes(module: Module) -> Iterator[str]:
    for name, line in [*module.uses, *((found.name, found.line) for found in module.imports)]:
        if name in UNSAFE or name.partition(".")[0] in UNSAFE:
            yield f"{module.path}:{line}: {name} can run what is in the bytes"


def no_assert_guards_anything(module: Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.Assert):
            yield f"{module.path}:{node.lineno}: assert vanishes under python -O: raise an error of swarm.errors"


def only_the_command_line_prints(module: Module) -> Iterator[str]:
    if not module.path.startswith(MAY_PRINT):
        yield from (
            f"{module.path}:{line}: prints"
            for name, line in module.uses
            if name in ("print", "sys.stdout.write", "click.echo")
        )


RULES: list[Rule] = [
    rooms_open_one_way,
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
        (libraries_stay_at_their_address, "averaging/a.py", "import json\nfrom torch import Tensor"),
        (hivemind_comes_late, "swarm/dht/node.py", "def f():\n    import hivemind"),
        (time_comes_from_outside, "swarm/a.py", "def f(loop, datetime):\n    loop.time()"),
        (chance_has_a_seed, "swarm/a.py", "import random\nchance = random.Random(7)\nchance.random()"),
        (nothing_runs_strangers_bytes, "peer/a.py", "import re\nre.compile('x')\nmodel.eval()"),
    ],
)
def test_what_is_allowed_is_not_an_offence(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text))) == []


@pytest.mark.parametrize("table", [MAY_READ_A_CLOCK, MAY_START_THREADS], ids=["clocks", "threads"])
def test_no_exception_outlives_its_file(table: dict[str, str]) -> None:
    assert table.keys() <= {module.path for module in MODULES}
