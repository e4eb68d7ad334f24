"""Local training: as many steps as fit into a round. AdamW (arXiv:1711.05101), clipped gradients, warm-up, cosine to a tenth.

Where the run says so, the hidden matrices are Muon's (`peer.training.muon`) and AdamW keeps the rest: embeddings, heads and gains. The
optimisers' state is this peer's own: it is never averaged, survives the rounds, and travels only into the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarm.errors import ConfigError
from swarm.manifest import InnerOptimiser, InnerSpec

from .adamw import AdamW
from .muon import Muon

REWARM_STEPS = 30
"""Steps until the learning rate is back after AdamW's state and the weights stopped belonging together."""

FLOOR = 0.1
"""What the cosine ends at, as a fraction of the peak."""

HOPELESS = 1e6
"""The loss of a round in which no step had a finite one: the largest that a peer can tell the others."""

_ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")
_MUON_SLOTS = ("momentum",)

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What one round of local training came to. ``loss`` is the mean over its steps in nats per token, always finite."""

    steps: int
    tokens: int
    loss: float
    skipped: int = 0
    """Steps without an update, because the gradient was not finite."""

    def plus(self, more: Trained) -> Trained:
        """Both as one; the loss is the mean over the steps of both."""
        steps = self.steps + more.steps
        loss = (self.steps * self.loss + more.steps * more.loss) / max(1, steps)
        return Trained(steps, self.tokens + more.tokens, loss, self.skipped + more.skipped)


def learning_rate(spec: InnerSpec, position: int, since_rewarm: int) -> float:
    """The rate of the step at ``position`` (from 0) in the run's schedule, ``since_rewarm`` steps after a fresh start or resync."""
    warm = min(1.0, (position + 1) / max(1, spec.warmup_steps), (since_rewarm + 1) / REWARM_STEPS)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, position / spec.horizon_steps))
    return spec.learning_rate * warm * (FLOOR + (1 - FLOOR) * cosine)


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether a parameter is a matrix of a repeated layer ("blocks.0.qkv"): embeddings and heads stand in none."""
    return weight.ndim == 2 and any(part.isdigit() for part in name.split("."))


class Inner:
    """The local optimiser over ``model``'s parameters, changed in place. Where the weights are overwritten between rounds by the
    average, the optimiser's state is kept: it is an estimate of curvature, which one round does not change."""

    def __init__(self, model: nn.Module, spec: InnerSpec) -> None:
        self.model = model
        self.spec = spec
        self.position = 0
        self._since_rewarm = 0
        self._named = dict(model.named_parameters())
        with_muon = spec.optimiser is InnerOptimiser.MUON
        hidden = {
            name for name, weight in self._named.items() if with_muon and is_hidden_matrix(name, weight)
        }
        others = [weight for name, weight in self._named.items() if name not in hidden]
        matrices = [weight for weight in others if weight.ndim >= 2]
        vectors = [weight for weight in others if weight.ndim < 2]
        adam = AdamW([(matrices, spec.weight_decay), (vectors, 0.0)], spec.learning_rate)
        self._optimisers: list[AdamW | Muon] = [adam]
        self._homes: dict[str, tuple[AdamW | Muon, tuple[str, ...]]]
        self._homes = {name: (adam, _ADAM_SLOTS) for name in self._named}
        """Of every parameter: who moves it, and what that one remembers of it."""
        if hidden:
            muon = Muon([self._named[name] for name in sorted(hidden)], spec.learning_rate, spec.weight_decay)
            self._optimisers.append(muon)
            self._homes |= {name: (muon, _MUON_SLOTS) for name in hidden}

    def rewarm(self, position: int | None = None) -> None:
        """Climb back to the full rate over `REWARM_STEPS`: after a fresh start, or after the weights came from somebody else.

        ``position`` is where the run's schedule stands, for a peer that joins late.
        """
        self._since_rewarm = 0
        if position is not None:
            self.position = position

    def run(
        self,
        batches: Batches,
        *,
        max_steps: int,
        until: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> Trained:
        """Step until ``max_steps`` or until ``until()`` is true, asked after each step: at least one step is always done.

        ``on_step(steps so far, loss)`` is called after each step, in this thread; where it sleeps, training is throttled.
        """
        self.model.train()
        losses: list[float] = []
        tokens = skipped = 0
        for x_BT, y_BT in batches:
            loss, stepped = self._step(x_BT, y_BT)
            losses.append(loss)
            tokens += x_BT.numel()
            skipped += not stepped
            on_step(len(losses), loss)
            if len(losses) >= max_steps or until():
                break
        finite = [loss for loss in losses if math.isfinite(loss)]
        return Trained(len(losses), tokens, math.fsum(finite) / len(finite) if finite else HOPELESS, skipped)

    def _step(self, x_BT: Tensor, y_BT: Tensor) -> tuple[float, bool]:
        """One step; the loss, and whether the weights moved."""
        for optimiser in self._optimisers:
            optimiser.lr = learning_rate(self.spec, self.position, self._since_rewarm)
        device = next(iter(self._named.values())).device
        logits_BTV = self.model(x_BT.to(device))
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.to(device).flatten())
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._named.values(), self.spec.clip)
        is_finite = bool(norm.isfinite())
        if is_finite:  # one bad batch must not cost the round, nor the weights
            for optimiser in self._optimisers:
                optimiser.step()
        self.position += 1
        self._since_rewarm += 1
        return loss.item(), is_finite

    def export_state(self) -> dict[str, Tensor]:
        """The optimiser's state and the schedule's position as tensors, copied, for the checkpoint."""
        counters = torch.tensor([self.position, self._since_rewarm])
        moments = {
            f"{name}.{slot}": optimiser.state[weight][slot].detach().clone()
            for name, weight, optimiser, slots in self._memories()
            if weight in optimiser.state
            for slot in slots
        }
        return {"counters": counters, **moments}

    def import_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `export_state` gave. Raises `ConfigError` where it belongs to another model; then nothing changes."""
        expected = {
            f"{name}.{slot}": _shape(slot, weight)
            for name, weight, _, slots in self._memories()
            for slot in slots
        }
        found = {name: tensor.shape for name, tensor in state.items()}
        if found.pop("counters", None) != (2,) or found not in (
            {},
            expected,
        ):  # {}: saved before the first step
            raise ConfigError(
                "the optimiser's state in the checkpoint belongs to another model", "choose another --home"
            )
        self.position, self._since_rewarm = (int(counter) for counter in state["counters"])
        for optimiser in self._optimisers:
            optimiser.state.clear()
        for name, weight, optimiser, slots in self._memories() if found else ():
            optimiser.state[weight] = {
                slot: state[f"{name}.{slot}"].to(weight.device, copy=True) for slot in slots
            }

    def _memories(self) -> Iterator[tuple[str, Tensor, AdamW | Muon, tuple[str, ...]]]:
        """Every parameter with its optimiser and the names of what that one remembers of it."""
        for name, weight in self._named.items():
            yield name, weight, *self._homes[name]


def _shape(slot: str, weight: Tensor) -> torch.Size:
    return torch.Size() if slot == "step" else weight.shape
