"""A small modern GPT over bytes, of which every built-in preset is one size.

    tokens_BT -> embedding × √C -> [ x + attention(norm x) -> x + SwiGLU(norm x) ] × layers
              -> norm -> embeddingᵀ -> logits_BTV

Pre-norm RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864), SwiGLU (arXiv:2002.05202), no
biases, and no dropout, because a peer sees each byte about once.

Embeddings are tied (arXiv:1608.05859). Every parameter is uploaded every round, and an output matrix of its
own is a seventh of a small model; in the few thousand steps of a short run it also learns more slowly (nano,
400 steps: 0.1 bits per byte behind). The factor √C lets the one matrix start with small values, for small
logits, while the residual stream starts with values of a usual size.

Parameters are plain tensors rather than `nn.Linear`, so that building a model does not change torch's global
random number generator.
"""

# Axes: B sequences, T positions, C channels (width), V vocabulary, H heads, D channels per head, E half of D,
#       F hidden channels

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swarm.manifest import ModelSpec

ROTARY_BASE = 10_000.0
"""Of the rotary positions' wavelengths, as in the paper."""


def hidden_width(width: int) -> int:
    """Channels inside SwiGLU: 8/3 of the width, rounded up to a multiple of 8.

    That gives as many parameters as a plain MLP of 4 times the width.
    """
    return -(-8 * width // 24) * 8


class GPT(nn.Module):
    """The model of ``spec``, with undefined weights until `initialise`. Use `peer.models.registry.build`."""

    cos_TE: Tensor
    sin_TE: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Parameter(torch.empty(spec.vocabulary, spec.width))  # [V, C]
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.RMSNorm(spec.width, eps=1e-6)
        half = spec.width // spec.heads // 2
        angle_TE = torch.outer(torch.arange(spec.context), ROTARY_BASE ** -(torch.arange(half) / half))
        self.register_buffer("cos_TE", angle_TE.cos(), persistent=False)
        self.register_buffer("sin_TE", angle_TE.sin(), persistent=False)

    @staticmethod
    def count(spec: ModelSpec) -> int:
        """How many parameters a model of ``spec`` has."""
        C = spec.width
        hidden = hidden_width(C)
        block = (3 * C + C) * C + 3 * hidden * C + 2 * C
        return spec.vocabulary * C + spec.layers * block + C

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` of the token after each position; T is at most ``spec.context``."""
        T = tokens_BT.shape[1]
        x_BTC = F.embedding(tokens_BT, self.embedding) * self.spec.width**0.5
        for block in self.blocks:
            x_BTC = block(x_BTC, self.cos_TE[:T], self.sin_TE[:T])
        return F.linear(self.norm(x_BTC), self.embedding)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every matrix from ``generator``, in the order of the parameters; norms start at one.

        The standard deviation is 1/√fan-in. The embedding has 0.4 of it, so that the first logits are small
        (8.1 bits per byte). Matrices that write into the residual stream have 1/√(2 × layers) of it, so that
        depth does not amplify the stream.
        """
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0)
                continue
            scale = 0.4 if name == "embedding" else 1.0
            if name.endswith(("out", "down")):
                scale = (2 * self.spec.layers) ** -0.5
            weight.normal_(std=scale * weight.shape[1] ** -0.5, generator=generator)


class Block(nn.Module):
    """One layer: causal self-attention, then SwiGLU, each on the normalised stream and added to it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        C = spec.width
        hidden = hidden_width(C)
        self.heads = spec.heads
        self.norm_attention = nn.RMSNorm(C, eps=1e-6)
        self.qkv = nn.Parameter(torch.empty(3 * C, C))  # [3C, C]
        self.out = nn.Parameter(torch.empty(C, C))  # [C, C]
        self.norm_hidden = nn.RMSNorm(C, eps=1e-6)
        self.gate_up = nn.Parameter(torch.empty(2 * hidden, C))  # [2F, C]
        self.down = nn.Parameter(torch.empty(C, hidden))  # [C, F]

    def forward(self, x_BTC: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """``[B, T, C]`` in and out."""
        x_BTC = x_BTC + self._attend(self.norm_attention(x_BTC), cos_TE, sin_TE)
        gate_BTF, up_BTF = F.linear(self.norm_hidden(x_BTC), self.gate_up).chunk(2, dim=-1)
        return x_BTC + F.linear(F.silu(gate_BTF) * up_BTF, self.down)

    def _attend(self, x_BTC: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        qkv_3BHTD = F.linear(x_BTC, self.qkv).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        qk_2BHTD, v_1BHTD = qkv_3BHTD.split_with_sizes((2, 1))
        q_BHTD, k_BHTD = rotate(qk_2BHTD, cos_TE, sin_TE).unbind()
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_1BHTD[0], is_causal=True)
        return F.linear(y_BHTD.transpose(1, 2).reshape(B, T, C), self.out)


def rotate(x_TD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Turn channel pairs (e, e + E) of ``[..., T, D]`` by the angle of their position (arXiv:2104.09864).

    Dot products of the results depend on the distance of two positions only.
    """
    a_TE, b_TE = x_TD.chunk(2, dim=-1)
    return torch.cat((a_TE * cos_TE - b_TE * sin_TE, a_TE * sin_TE + b_TE * cos_TE), dim=-1)
