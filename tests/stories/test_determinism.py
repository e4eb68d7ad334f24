"""The same seed is the same story, to the last bit of the last model, in every process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
from peer.rehearsal import Script, rehearse
from swarm.simulation.faults import Faults
from swarm.simulation.network import Link
story = Script(peers=5, rounds=3, seed=int({seed}), link=Link(jitter=0.05, loss=0.005), faults=Faults().crash("p2", at=5.0))
print(rehearse(story).transcript)
"""


def transcript(seed: int, hash_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(seed=seed)], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout.strip()


def test_the_same_seed_is_the_same_story_and_another_seed_another() -> None:
    one = transcript(7, hash_seed=0)
    assert len(one) == 64
    assert transcript(7, hash_seed=12345) == one
    assert transcript(8, hash_seed=0) != one
