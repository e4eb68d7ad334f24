"""How good the shared model is: bits per byte on text that no peer trains on, and a sample to read."""

# Axes: W windows, B windows in a batch, T positions, U = T + 1 bytes of a window, V vocabulary

from __future__ import annotations

import math
import unicodedata

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.registry import GPT


@torch.inference_mode()
def bits_per_byte(model: GPT, windows_WU: Tensor, batch: int = 32) -> float:
    """Mean cost in bits of each byte after the first of a window, given those before it.

    A model that knows nothing has 8.
    """
    device = model.embedding.device
    nats = 0.0
    for start in range(0, len(windows_WU), batch):
        window_BU = windows_WU[start : start + batch].to(device)
        logits_BTV = model(window_BU[:, :-1])
        nats += F.cross_entropy(logits_BTV.flatten(0, 1), window_BU[:, 1:].flatten(), reduction="sum").item()
    return nats / windows_WU[:, 1:].numel() / math.log(2)


@torch.inference_mode()
def sample(model: GPT, prompt: bytes, length: int, seed: int, temperature: float = 0.8) -> str:
    """``length`` bytes that the model writes after ``prompt``, as text that is safe to print on a terminal.

    With ``temperature`` 0 each byte is the likeliest one. The prompt is not part of the result. With an empty
    prompt, the model continues a line end.
    """
    device = model.embedding.device
    generator = torch.Generator().manual_seed(seed)
    written = bytearray(prompt or b"\n")
    begin = len(written)
    for _ in range(length):
        context_1T = torch.tensor([list(written[-model.spec.context :])], device=device)
        logits_V = model(context_1T)[0, -1, :256].cpu()
        if temperature > 0:
            chosen = torch.multinomial((logits_V / temperature).softmax(dim=-1), 1, generator=generator)
        else:
            chosen = logits_V.argmax()
        written.append(int(chosen))
    return printable(written[begin:].decode(errors="replace"))


def printable(text: str) -> str:
    """``text`` without control and format characters, except line ends and tabs.

    Text that a model wrote must not control a terminal.
    """
    return "".join(
        letter for letter in text if letter in "\n\t" or not unicodedata.category(letter).startswith("C")
    )
