"""Follow a run by a peer's JSON lines: swarm join TICKET --json | python examples/follow.py

Needs nothing but Python. docs/contract.md lists the fields of every line.
"""

import json
import sys
from collections.abc import Iterable


def main(lines: Iterable[str]) -> None:
    """Print one sentence after every round in which the shared model has become better."""
    best = float("inf")
    for line in lines:
        event = json.loads(line)
        if event["event"] != "round":
            continue
        score = event.get("bits_per_byte")
        if score is None or score >= best:
            continue
        best = score
        sys.stdout.write(f"round {event['round']}: {score:.3f} bits per byte, {event['members']} peers\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.stdin)
