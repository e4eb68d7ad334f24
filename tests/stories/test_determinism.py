"""The same seed makes the same rehearsal, to the last bit of the last model, in every process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link
for seed in {seeds}:
    faults = Faults().crash("p2", at=5.0)
    link = Link(jitter=0.05, loss=0.005)
    print(rehearse(Scenario(peers=5, rounds=3, seed=seed, link=link, faults=faults)).transcript)
"""


def transcripts(*seeds: int, hash_seed: int) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.format(seeds=seeds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_same_seed_makes_the_same_rehearsal_and_another_seed_another() -> None:
    one, other = transcripts(7, 8, hash_seed=0)
    assert len(one) == 64
    assert transcripts(7, hash_seed=12345) == [one]
    assert other != one
