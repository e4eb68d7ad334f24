"""What compression costs: the same swarm, seed for seed, with each codec, on real text and virtual time.

    python -m benchmarks.codec_gap [--rounds 20] [--seeds 2] [--json FILE]

Equal seeds mean equal fresh models, equal data for every peer in every round and equal links: only the codec
differs. Bytes are those that a peer sends per round and parameter (200 bytes of head per message, as the
simulated network counts), beside the formula of a butterfly of n members, (n − 1) / n · (bytes per number of
an update + bytes per number of an average).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from averaging.codecs import bytes_per_parameter, result_codec
from peer.config.run import RunSettings
from peer.simulation.run import rehearse
from peer.simulation.scenario import Scenario
from swarm.manifest import Codec
from swarm.simulation.network import Link

PEERS = 4


def formula(codec: Codec) -> float:
    """Bytes per parameter and round that a member of a group of `PEERS` has to send."""
    return (PEERS - 1) / PEERS * (bytes_per_parameter(codec) + bytes_per_parameter(result_codec(codec)))


def measure(codec: Codec, seed: int, rounds: int) -> dict[str, float | str | int]:
    """One rehearsal: held-out bits per byte of the shared model at the end, and bytes sent."""
    settings = RunSettings(
        model="nano", max_steps=20, round_seconds=60.0, average_seconds=60.0, codec=codec.name.lower()
    )
    link = Link(latency=0.02, jitter=0.005, bandwidth=1e8)
    scenario = Scenario(
        peers=PEERS, rounds=rounds, seed=seed, settings=settings, link=link, text_bytes=1 << 30
    )
    told = rehearse(scenario)
    reports = told.notebooks["p0"].rounds
    sent = statistics.fmean(report.bytes_up for report in reports[1:])
    score = reports[-1].bits_per_byte
    return {
        "codec": codec.name.lower(),
        "seed": seed,
        "bits_per_byte": score if score is not None else float("nan"),
        "bytes_per_parameter": sent / told.parameters,
        "state_roots_equal": told.state_roots_equal,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    print(f"{'codec':9} {'seed':>4} {'bits/byte':>10} {'gap to fp32':>12} {'bytes/param':>12} {'formula':>8}")
    for seed in range(chosen.seeds):
        exact = float("nan")
        for codec in Codec:
            row = measure(codec, seed, chosen.rounds)
            if codec is Codec.FP32:
                exact = float(row["bits_per_byte"])
            row["gap"] = float(row["bits_per_byte"]) - exact
            rows.append(row)
            loss = f"{row['bits_per_byte']:10.4f} {row['gap']:+12.4f}"
            size = f"{row['bytes_per_parameter']:12.3f} {formula(codec):8.3f}"
            print(f"{row['codec']:9} {seed:4} {loss} {size}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
