"""What survives ``kill -9``: shared state, this peer's optimiser and residual, in safetensors files that are whole or not there.

    checkpoints/round-00000041.safetensors      the last two are kept: a damaged newest one costs a round, not the run
    checkpoints/round-00000042.safetensors

The one address of safetensors in this program; nothing is ever pickled.
"""

# Axes: P parameters of the whole model

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swarm.manifest import ModelSpec

from ..storage.files import disk_trouble, replacing, sweep
from .state import SharedState, bytes_of

FORMAT = "swarm-checkpoint-1"
MODEL_FORMAT = "swarm-model-1"
KEEP = 2

_NAME = re.compile(r"round-(\d{8,10})\.safetensors")
_ERRNO = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A checkpoint as it was saved: ``inner`` for `Inner.import_state`, ``residual_P`` None where the peer had none."""

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
    """Write the checkpoint of ``state.round`` into ``directory`` and keep the one before it; the path.

    Checkpoints of later rounds go: they belong to a history that this peer has left. Raises `DiskTrouble`, and then the
    checkpoints that were there still are.
    """
    path = directory / f"round-{state.round:08}.safetensors"
    tensors = {"anchor": state.anchor_P} | {f"inner/{name}": tensor for name, tensor in inner.items()}
    tensors |= {"momentum": state.momentum_P} if state.momentum_P is not None else {}
    tensors |= {"residual": residual_P} if residual_P is not None else {}
    header = {"format": FORMAT, "round": str(state.round)} | {f"meta/{k}": v for k, v in meta.items()}
    try:
        sweep(directory)
        _write(path, tensors, header | {"digest": _digest(tensors, header)})
        _forget(directory, state.round)
    except OSError as error:
        raise disk_trouble(path, error) from error
    return path


def load(directory: Path) -> tuple[Loaded | None, tuple[str, ...]]:
    """The newest checkpoint in ``directory`` that is whole (None where there is none), and a warning for each damaged one."""
    warnings: list[str] = []
    for path in _saved(directory).values():
        try:
            return _read(path), tuple(warnings)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            warnings.append(f"{path.name} is damaged and was passed over ({error})")
    return None, tuple(warnings)


def export(path: Path, tensors: Mapping[str, Tensor], spec: ModelSpec, meta: Mapping[str, str]) -> None:
    """The model alone, with named tensors, for people and other programs. Raises `DiskTrouble`."""
    sizes = {name: getattr(spec, name) for name in spec.__struct_fields__}
    _write(path, tensors, {**meta, "format": MODEL_FORMAT, "spec": msgspec.json.encode(sizes).decode()})


def load_export(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """What `export` wrote. Raises `DiskTrouble` where the file is missing or not one."""
    try:
        with safe_open(path, framework="pt") as file:
            sizes = msgspec.json.decode(file.metadata()["spec"], type=dict[str, str | int])
            spec = msgspec.convert([sizes[name] for name in ModelSpec.__struct_fields__], ModelSpec)
            return spec, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
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
            number = _ERRNO.search(str(error))  # the library gives the system's error as text only
            raise OSError(int(number[1]) if number else 0, str(error)) from error


def _read(path: Path) -> Loaded:
    with safe_open(path, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
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


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """One hash over everything: safetensors notices a file that was cut short, but not a bit that flipped."""
    digest = hashlib.sha256(msgspec.json.encode(sorted(header.items())))
    for name, tensor in sorted(tensors.items()):
        digest.update(msgspec.json.encode((name, str(tensor.dtype), tuple(tensor.shape))))
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
