"""Let a finished model write: python examples/write.py ~/.swarm/RUN/1/model.safetensors "def main("."""

import sys
from pathlib import Path

from peer.models.registry import build
from peer.training.checkpoint import load_export
from peer.training.evaluate import sample


def main(path: Path, prompt: str, length: int = 400) -> None:
    """Print ``prompt`` and the ``length`` bytes that the model in the file ``path`` writes after it."""
    spec, tensors = load_export(path)
    model = build(spec, seed=0)
    model.load_state_dict(tensors)
    text = sample(model, prompt.encode(), length, seed=0)
    sys.stdout.write(f"{prompt}{text}\n")


if __name__ == "__main__":
    prompt = sys.argv[2] if len(sys.argv) > 2 else "def "
    main(Path(sys.argv[1]), prompt)
