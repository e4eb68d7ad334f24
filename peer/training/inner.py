"""Local training: as many steps as fit into a round.

AdamW (arXiv:1711.05101) with clipped gradients, a warm-up, and a cosine schedule that ends at a tenth of the
peak. If the manifest says so, Muon (`peer.training.muon`) updates the hidden matrices and AdamW the rest:
embeddings, heads and gains. The optimisers' state belongs to this peer alone: it is never averaged, it is
kept from round to round, and it leaves the peer only into its checkpoint.
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
"""Steps of the warm-up after the weights were replaced by others that AdamW's state does not fit."""

FLOOR = 0.1
"""Where the cosine schedule ends, as a fraction of the peak."""

HOPELESS = 1e6
"""The loss of a round in which no step had a finite one: the largest loss that a message can carry."""

_ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")
_MUON_SLOTS = ("momentum",)

Batches = Iterator[tuple[Tensor, Tensor]]
"""Inputs and targets, ``(x_BT, y_BT)``."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of local training. ``loss`` is the mean over its steps in nats per token, always finite."""

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
    """The learning rate at step ``position`` (from 0) of the run's schedule.

    ``since_rewarm``: steps since the last warm-up began (`Inner.rewarm`).
    """
    warm = min(1.0, (position + 1) / max(1, spec.warmup_steps), (since_rewarm + 1) / REWARM_STEPS)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, position / spec.horizon_steps))
    return spec.learning_rate * warm * (FLOOR + (1 - FLOOR) * cosine)


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Whether a parameter is a matrix of a repeated layer ("blocks.0.qkv"): no embedding, no head."""
    return weight.ndim == 2 and any(part.isdigit() for part in name.split("."))


class Inner:
    """The local optimiser of ``model``, whose parameters it changes in place.

    Its state is kept when the average replaces the weights between two rounds: the state estimates curvature,
    which one round hardly changes.
    """

    def __init__(self, model: nn.Module, spec: InnerSpec) -> None:
        self.model = model
        self.spec = spec
        self.position = 0
        self._since_rewarm = 0
        self._named = dict(model.named_parameters())

        hidden: set[str] = set()
        if spec.optimiser is InnerOptimiser.MUON:
            hidden = {name for name, weight in self._named.items() if is_hidden_matrix(name, weight)}
        others = [weight for name, weight in self._named.items() if name not in hidden]
        matrices = [weight for weight in others if weight.ndim >= 2]
        vectors = [weight for weight in others if weight.ndim < 2]

        adam = AdamW([(matrices, spec.weight_decay), (vectors, 0.0)], spec.learning_rate)
        self._optimisers: list[AdamW | Muon] = [adam]
        self._owners: dict[str, tuple[AdamW | Muon, tuple[str, ...]]]
        self._owners = {name: (adam, _ADAM_SLOTS) for name in self._named}
        """For each parameter: its optimiser, and the names of what that keeps for it."""
        if hidden:
            muon = Muon([self._named[name] for name in sorted(hidden)], spec.learning_rate, spec.weight_decay)
            self._optimisers.append(muon)
            self._owners |= {name: (muon, _MUON_SLOTS) for name in hidden}

    def rewarm(self, position: int | None = None) -> None:
        """Start a warm-up of `REWARM_STEPS`: after a start, or after the weights came from another peer.

        ``position`` is that of the run in the schedule, for a peer that joins late.
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
        """Train until ``max_steps`` or until ``until()``, called after each step, is true: at least one step.

        Calls ``on_step(steps so far, loss)`` after each step, in this thread; it may sleep to slow training
        down.
        """
        self.model.train()
        losses: list[float] = []
        tokens = 0
        skipped = 0
        for x_BT, y_BT in batches:
            loss, has_stepped = self._step(x_BT, y_BT)
            losses.append(loss)
            tokens += x_BT.numel()
            skipped += not has_stepped
            on_step(len(losses), loss)
            if len(losses) >= max_steps or until():
                break
        finite = [loss for loss in losses if math.isfinite(loss)]
        mean_loss = math.fsum(finite) / len(finite) if finite else HOPELESS
        return Trained(len(losses), tokens, mean_loss, skipped)

    def _step(self, x_BT: Tensor, y_BT: Tensor) -> tuple[float, bool]:
        """One step: its loss, and whether the weights have changed."""
        for optimiser in self._optimisers:
            optimiser.lr = learning_rate(self.spec, self.position, self._since_rewarm)
        device = next(iter(self._named.values())).device
        logits_BTV = self.model(x_BT.to(device))
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.to(device).flatten())
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._named.values(), self.spec.clip)
        is_finite = bool(norm.isfinite())
        if is_finite:  # a bad batch must not spoil the weights, nor cost the whole round
            for optimiser in self._optimisers:
                optimiser.step()
        self.position += 1
        self._since_rewarm += 1
        return loss.item(), is_finite

    # --- the checkpoint -------------------------------------------------------------------------------------

    def export_state(self) -> dict[str, Tensor]:
        """The optimisers' state and the position in the schedule as tensors, copied, for the checkpoint."""
        counters = torch.tensor([self.position, self._since_rewarm])
        moments = {
            f"{name}.{slot}": optimiser.state[weight][slot].detach().clone()
            for name, weight, optimiser, slots in self._memories()
            if weight in optimiser.state
            for slot in slots
        }
        return {"counters": counters, **moments}

    def import_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `export_state` returned.

        Raises `ConfigError`, and changes nothing, where it belongs to another model or optimiser.
        """
        shapes = {name: tensor.shape for name, tensor in state.items()}
        has_counters = shapes.pop("counters", None) == (2,)
        is_empty = not shapes  # saved before the first step
        if not has_counters or not (is_empty or shapes == self._expected_shapes()):
            raise ConfigError(
                "the optimiser's state in the checkpoint belongs to another model", "choose another --home"
            )

        self.position, self._since_rewarm = (int(counter) for counter in state["counters"])
        for optimiser in self._optimisers:
            optimiser.state.clear()
        if is_empty:
            return
        for name, weight, optimiser, slots in self._memories():
            optimiser.state[weight] = {
                slot: state[f"{name}.{slot}"].to(weight.device, copy=True) for slot in slots
            }

    def _expected_shapes(self) -> dict[str, torch.Size]:
        """The shapes of what `export_state` returns after the first step, without the counters."""
        return {
            f"{name}.{slot}": torch.Size() if slot == "step" else weight.shape
            for name, weight, _, slots in self._memories()
            for slot in slots
        }

    def _memories(self) -> Iterator[tuple[str, Tensor, AdamW | Muon, tuple[str, ...]]]:
        """Every parameter with its optimiser and the names of what that keeps for it."""
        for name, weight in self._named.items():
            optimiser, slots = self._owners[name]
            yield name, weight, optimiser, slots
