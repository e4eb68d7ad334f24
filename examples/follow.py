"""Do something with a peer's JSON lines: swarm join TICKET --json | python examples/follow.py

Needs nothing but Python. docs/contract.md says what every line holds.
"""

import json
import sys
from collections.abc import Iterable


def main(lines: Iterable[str]) -> None:
    """Say in a sentence how far the run is, after every round in which the shared model got better."""
    best = float("inf")
    for line in lines:
        said = json.loads(line)
        score = said.get("bits_per_byte") if said["event"] == "round" else None
        if score is not None and score < best:
            best = score
            sys.stdout.write(f"round {said['round']}: {score:.3f} bits per byte, {said['members']} peers\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.stdin)
