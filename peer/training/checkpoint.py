"""Checkpoints: the shared state, this peer's optimiser and its residual, in safetensors files.

    checkpoints/round-00000041.safetensors
    checkpoints/round-00000042.safetensors

Each file is written as a whole (`peer.storage.files`), so one survives ``kill -9`` at any moment. The last
two are kept: where the newest is damaged, the peer loses a round and not the run. Only this module uses
safetensors, and nothing is ever pickled.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swarm.manifest import ModelSpec

from ..storage.files import disk_trouble, replacing, sweep
from .state import SharedState, bytes_of

FORMAT = "swarm-checkpoint-1"
"""In the header of a checkpoint."""
MODEL_FORMAT = "swarm-model-1"
"""In the header of an exported model."""
KEEP = 2
"""Checkpoints in a folder."""

_NAME = re.compile(r"round-(\d{8,10})\.safetensors")
_ERRNO = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint. ``inner`` is for `Inner.import_state`; ``residual_P`` is None where the peer had none."""

    path: Path
    state: SharedState
    inner: dict[str, Tensor]
    residual_P: Tensor | None
    meta: dict[str, str]


def save(
    directory: Path,
    state: SharedState,
    inner: Mapping[str, Tensor],
    residual_P: Tensor | None,
    meta: Mapping[str, str],
) -> Path:
    """Write the checkpoint of ``state.round`` into ``directory`` and keep the one before it; its path.

    Removes checkpoints of later rounds: they belong to a side of a partition that this peer has left. Raises
    `DiskTrouble`; the checkpoints that were there are then still there.
    """
    path = directory / f"round-{state.round:08}.safetensors"
    tensors = {"anchor": state.anchor_P} | {f"inner/{name}": tensor for name, tensor in inner.items()}
    if state.momentum_P is not None:
        tensors["momentum"] = state.momentum_P
    if residual_P is not None:
        tensors["residual"] = residual_P
    header = {"format": FORMAT, "round": str(state.round)}
    header |= {f"meta/{name}": value for name, value in meta.items()}
    try:
        sweep(directory)
        _write(path, tensors, header | {"digest": _digest(tensors, header)})
        _forget(directory, state.round)
    except OSError as error:
        raise disk_trouble(path, error) from error
    return path


def load(directory: Path) -> tuple[Loaded | None, tuple[str, ...]]:
    """The newest undamaged checkpoint in ``directory`` or None, and a warning for each damaged one."""
    warnings: list[str] = []
    for path in _saved(directory).values():
        try:
            return _read(path), tuple(warnings)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            warnings.append(f"{path.name} is damaged and was passed over ({error})")
    return None, tuple(warnings)


def export(path: Path, tensors: Mapping[str, Tensor], spec: ModelSpec, meta: Mapping[str, str]) -> None:
    """Write the model alone, with named tensors, for people and other programs. Raises `DiskTrouble`."""
    sizes = {name: getattr(spec, name) for name in spec.__struct_fields__}
    _write(path, tensors, {**meta, "format": MODEL_FORMAT, "spec": msgspec.json.encode(sizes).decode()})


def load_export(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read what `export` wrote. Raises `DiskTrouble` where the file is missing or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            sizes = msgspec.json.decode(file.metadata()["spec"], type=dict[str, str | int])
            spec = msgspec.convert([sizes[name] for name in ModelSpec.__struct_fields__], ModelSpec)
            return spec, _tensors(file)
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise disk_trouble(path, OSError(0, f"not a model file ({error})"), "read") from error


def _saved(directory: Path) -> dict[int, Path]:
    """The checkpoints in ``directory`` by round, newest first."""
    found = {
        int(match[1]): path for path in directory.glob("round-*") if (match := _NAME.fullmatch(path.name))
    }
    return dict(sorted(found.items(), reverse=True))


def _forget(directory: Path, round_: int) -> None:
    """Remove all but the last `KEEP` checkpoints up to ``round_``."""
    rounds = _saved(directory)
    kept = [number for number in rounds if number <= round_][:KEEP]
    for number in rounds.keys() - kept:
        rounds[number].unlink(missing_ok=True)


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    with replacing(path) as draft:
        try:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                draft,
                metadata=header,
            )
        except SafetensorError as error:
            number = _ERRNO.search(str(error))  # the library reports the error of the system only as text
            raise OSError(int(number[1]) if number else 0, str(error)) from error


def _read(path: Path) -> Loaded:
    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
        tensors = _tensors(file)
    if header.get("format") != FORMAT:
        raise ValueError("its format is unknown")
    digest = header.pop("digest")
    if digest != _digest(tensors, header):
        raise ValueError("its bytes have changed")
    state = SharedState(int(header["round"]), tensors["anchor"], tensors.get("momentum"))
    inner = {
        name.removeprefix("inner/"): tensor for name, tensor in tensors.items() if name.startswith("inner/")
    }
    meta = {name.removeprefix("meta/"): value for name, value in header.items() if name.startswith("meta/")}
    return Loaded(path, state, inner, tensors.get("residual"), meta)


def _tensors(file: Any) -> dict[str, Tensor]:
    names: list[str] = file.keys()
    return {name: file.get_tensor(name) for name in names}


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """One hash over everything: safetensors detects a file that was cut short, but not a flipped bit."""
    digest = hashlib.sha256(msgspec.json.encode(sorted(header.items())))
    for name, tensor in sorted(tensors.items()):
        digest.update(msgspec.json.encode((name, str(tensor.dtype), tuple(tensor.shape))))
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
