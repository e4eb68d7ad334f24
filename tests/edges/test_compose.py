"""The compose file and the Dockerfile: no root, nothing writable, no open ports, one key per peer.

The text is checked everywhere; compose reads it where it is installed; containers run where Docker does.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]

from peer.commands.main import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LIMIT_SECONDS = 240.0

each_service = pytest.mark.parametrize("name", SERVICES)


def instructions(word: str) -> list[str]:
    """The arguments of each instruction ``word`` of the Dockerfile, with continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{word} ")]


def with_defaults(words: Sequence[str]) -> list[str]:
    """Replace each ``${NAME:-default}`` by its default, as compose does where the variable is not set."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]


# --- the file -----------------------------------------------------------------------------------------------


def test_old_and_new_compose_read_the_same_keys() -> None:
    """Compose 1.29 refuses ``name:``, and 2 warns about ``version:``."""
    assert {key for key in FILE if not key.startswith("x-")} == {"services", "volumes"}


def test_the_services_are_a_seed_and_peers_and_on_request_a_dashboard_and_chaos() -> None:
    assert {name: service.get("profiles", []) for name, service in SERVICES.items()} == {
        "seed": [], "peer": [], "top": ["top"], "chaos": ["chaos"],
    }  # fmt: skip


@each_service
def test_every_container_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"}
    assert not any("docker.sock" in volume for volume in service["volumes"])


@each_service
def test_containers_are_stopped_as_a_person_stops_them(name: str) -> None:
    """SIGINT is Ctrl-C: the peer leaves cleanly, and has the time for it."""
    assert SERVICES[name]["stop_signal"] == "SIGINT"
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= 10


def test_only_the_seed_s_port_is_published_and_only_to_this_computer() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"seed"}
    assert all(port.startswith("127.0.0.1:") for port in published["seed"])


def test_every_replica_has_a_key_of_its_own() -> None:
    """A volume without a name belongs to one container; with a name all replicas would share one identity."""
    for name in ("peer", "top", "chaos"):
        assert "/home/swarm" in SERVICES[name]["volumes"]
    homes = [
        volume
        for service in SERVICES.values()
        for volume in service["volumes"]
        if volume.endswith(":/home/swarm")
    ]
    assert homes == ["seed:/home/swarm"]
    assert FILE["volumes"].keys() == {"seed", "ticket"}


def test_only_the_seed_writes_the_ticket() -> None:
    assert "ticket:/ticket" in SERVICES["seed"]["volumes"]
    for name in ("peer", "top", "chaos"):
        assert "ticket:/ticket:ro" in SERVICES[name]["volumes"]
        assert SERVICES[name]["depends_on"] == {"seed": {"condition": "service_healthy"}}


def test_the_seed_has_a_health_check() -> None:
    assert SERVICES["seed"]["healthcheck"]["test"] == ["CMD", "swarm", "top", "--once"]
    assert [line.partition(" CMD ")[2] for line in instructions("HEALTHCHECK")] == [
        '["swarm", "top", "--once"]'
    ]


@each_service
def test_every_command_is_one_that_swarm_has(name: str) -> None:
    """Parse the commands: an option that no longer exists would otherwise fail in a container only."""
    word, *arguments = with_defaults(SERVICES[name]["command"])
    command = cli.commands[word]
    with click.Context(command, info_name=word) as context:
        command.parse_args(context, list(arguments))
    if word == "chaos":
        inner = arguments[arguments.index("--") + 1 :]
        assert inner == ["swarm", *SERVICES["peer"]["command"]]


# --- the Dockerfile -----------------------------------------------------------------------------------------


def test_the_image_runs_without_root_and_ends_like_ctrl_c() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGINT"]
    assert instructions("ENTRYPOINT") == ['["swarm"]']


def test_the_base_image_may_be_chosen_and_nothing_else_is_pulled() -> None:
    assert DOCKERFILE.index("ARG BASE=python:3.11-slim-bookworm") < DOCKERFILE.index("FROM ")
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE}"}


def test_every_package_comes_under_the_constraints() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


def test_the_files_that_the_image_copies_exist_and_are_not_ignored() -> None:
    """`.dockerignore` names what the build may read; a moved path would otherwise break only the build."""
    copied = {
        path for line in instructions("COPY") if not line.startswith("--from") for path in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {f"!{path}" for path in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / path).exists() for path in copied)


# --- clients and engines ------------------------------------------------------------------------------------


def compose_client() -> list[str]:
    """The command for compose on this computer; empty where it is not installed."""
    if shutil.which("docker") and _run(["docker", "compose", "version"]).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def _run(
    command: Sequence[str], seconds: float = LIMIT_SECONDS, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_client_accepts_the_file() -> None:
    client = compose_client()
    if not client:
        pytest.skip("neither 'docker compose' nor 'docker-compose' is installed")
    said = _run([*client, "--profile", "top", "--profile", "chaos", "config"])
    assert said.returncode == 0, said.stderr
    assert yaml.safe_load(said.stdout)["services"].keys() == SERVICES.keys()


@pytest.mark.slow
@pytest.mark.timeout(5000)
def test_containers_train_together() -> None:
    """A seed and two peers reach the end of a short run; all of them end by themselves, without an error."""
    client = compose_client()
    if not client:
        pytest.skip("neither 'docker compose' nor 'docker-compose' is installed")
    if not shutil.which("docker") or _run(["docker", "info"]).returncode != 0:
        pytest.skip("no Docker engine answers here ('docker info' fails)")
    base = os.environ.get("SWARM_BASE", "python:3.11-slim-bookworm")
    if (
        _run(["docker", "image", "inspect", base]).returncode != 0
        and _run(["docker", "pull", "--quiet", base]).returncode != 0
    ):
        pytest.skip(f"the base image {base} is not here and cannot be pulled; name another one in SWARM_BASE")
    environment = {
        "COMPOSE_PROJECT_NAME": f"swarm-test-{os.getpid()}",
        "SWARM_ROUNDS": "6",
        "SWARM_PORT": "0",
    }
    try:
        built = _run([*client, "build"], seconds=3000, **environment)
        assert built.returncode == 0, built.stderr[-3000:]
        said = _run([*client, "up", "--no-color"], seconds=3000, **environment)
    finally:
        _run([*client, "down", "--volumes", "--timeout", "15"], seconds=120, **environment)
    exits = re.findall(r"exited with code (\d+)", said.stdout + said.stderr)
    print(said.stdout[-3000:], file=sys.stderr)
    assert exits == ["0"] * 3
    assert "round 5" in said.stdout
