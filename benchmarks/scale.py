"""What a larger swarm costs each of its peers: messages, bytes and reads of the DHT per round, rehearsed.

    python -m benchmarks.scale [--peers 64,128,256,512,1000] [--rounds 5] [--churn 0] [--json FILE]

``mean`` is over all peers, ``most`` the peer that sent most: a leader, a representative, an owner of parts.
``directory`` is what a peer reads of others' records in the DHT: every peer keeps the whole membership, but
reads it less often where the population is large. ``in average`` is the share of peers whose work is in the
average of a round: in the first one, before any peer knows the population, a group has at most 64 members.
``seconds`` are real ones: from 65 peers on two processes share the work. Every message counts 200 bytes for
its head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from peer.simulation.run import rehearse
from peer.simulation.scenario import scenario_of

Row = dict[str, float | int | bool | str]


def measure(peers: int, rounds: int, churn: float) -> Row:
    """One rehearsal."""
    began = time.perf_counter()
    told = rehearse(scenario_of(peers, rounds, 0, churn=churn))
    sent = sorted(told.sent.values())
    averaged = [
        report
        for notebook in told.notebooks.values()
        for report in notebook.rounds
        if report.round not in notebook.missed
    ]
    return {
        "peers": peers,
        "rounds": rounds,
        "messages": told.messages / peers / rounds,
        "kilobytes_mean": statistics.fmean(sent) / rounds / 1e3,
        "kilobytes_most": sent[-1] / rounds / 1e3,
        "directory_kilobytes": statistics.fmean(told.looked.values()) / rounds / 1e3,
        "in_average": len(averaged) / peers / rounds,
        "virtual_seconds": told.virtual_seconds,
        "seconds": time.perf_counter() - began,
        "crashes": told.crashes,
        "state_roots_equal": told.state_roots_equal,
        "transcript": told.transcript,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default="64,128,256,512,1000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--churn", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    print("per peer and round:                kB sent          kB read    in                virtual")
    print(
        "peers  rounds  messages       mean       most  directory  average  roots equal    seconds    seconds"
    )
    rows = []
    for peers in map(int, chosen.peers.split(",")):
        row = measure(peers, chosen.rounds, chosen.churn)
        rows.append(row)
        print(
            f"{row['peers']:5} {row['rounds']:7} {row['messages']:9.0f} {row['kilobytes_mean']:10.1f} "
            f"{row['kilobytes_most']:10.1f} {row['directory_kilobytes']:10.1f} {row['in_average']:8.2f} "
            f"{row['state_roots_equal']!s:>12} {row['virtual_seconds']:10.0f} {row['seconds']:10.0f}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
