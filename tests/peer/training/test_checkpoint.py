"""Checkpoints: whole or not there, and never lost to a crash or a full disk."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peer.models.registry import build, presets
from peer.training.checkpoint import export, load, load_export, save
from peer.training.inner import Inner
from peer.training.state import SharedState, state_root
from swarm.errors import DiskTrouble
from swarm.manifest import InnerSpec

META = {"run": "ab" * 32, "peer": "otter"}


def state(round_, momentum=False):
    generator = torch.Generator().manual_seed(round_)
    anchor_P, momentum_P = torch.randn(2, 500, generator=generator).unbind()
    return SharedState(round_, anchor_P, momentum_P if momentum else None)


def put(directory, round_, **more):
    return save(
        directory,
        state(round_, **more),
        {"counters": torch.tensor([round_, 2])},
        torch.full((500,), 0.5),
        META,
    )


def names(directory):
    return sorted(os.listdir(directory))


@pytest.mark.parametrize("momentum", [False, True])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, momentum):
    path = put(tmp_path, 3, momentum=momentum)
    loaded, warnings = load(tmp_path)
    assert loaded is not None
    assert (loaded.path, loaded.meta, warnings) == (path, META, ())
    assert state_root(loaded.state) == state_root(state(3, momentum))
    assert loaded.inner["counters"].tolist() == [3, 2]
    assert loaded.residual_P is not None
    assert loaded.residual_P.eq(0.5).all()


def test_a_peer_without_a_residual_saves_none(tmp_path):
    save(tmp_path, state(1), {}, None, {})
    loaded, _ = load(tmp_path)
    assert loaded is not None
    assert (loaded.residual_P, loaded.inner, loaded.meta) == (None, {}, {})


def test_an_optimiser_continues_from_a_checkpoint(tmp_path):
    mine = Inner(build(presets["tiny"], 0), InnerSpec())
    mine.run(iter([(torch.arange(32).view(1, 32), torch.arange(1, 33).view(1, 32))]), max_steps=1)
    save(tmp_path, state(1), mine.export_state(), None, META)
    loaded, _ = load(tmp_path)
    assert loaded is not None
    again = Inner(build(presets["tiny"], 0), InnerSpec())
    again.import_state(loaded.inner)
    assert all(
        torch.equal(tensor, again.export_state()[name]) for name, tensor in mine.export_state().items()
    )


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert load(tmp_path) == (None, ())
    assert load(tmp_path / "missing") == (None, ())


def test_the_last_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for round_ in (8, 9, 10, 11):
        put(tmp_path, round_)
    assert names(tmp_path) == ["round-00000010.safetensors", "round-00000011.safetensors"]
    loaded, _ = load(tmp_path)
    assert loaded is not None
    assert loaded.state.round == 11


def test_the_same_round_can_be_saved_twice(tmp_path):
    put(tmp_path, 4)
    put(tmp_path, 4, momentum=True)
    loaded, _ = load(tmp_path)
    assert loaded is not None
    assert loaded.state.momentum_P is not None


def test_rounds_of_a_history_that_was_left_are_forgotten(tmp_path):
    for round_ in (8, 9, 5):
        put(tmp_path, round_)
    assert names(tmp_path) == ["round-00000005.safetensors"]


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, harm):
    put(tmp_path, 1)
    path = put(tmp_path, 2)
    raw = bytearray(path.read_bytes())
    if harm == "flip":
        raw[-100] ^= 1
    path.write_bytes(
        {"cut": raw[:-10], "flip": raw, "empty": b"", "foreign": b"\x80\x04not a checkpoint"}[harm]
    )
    loaded, warnings = load(tmp_path)
    assert loaded is not None
    assert loaded.state.round == 1
    assert len(warnings) == 1
    assert path.name in warnings[0]


def test_only_damaged_checkpoints_are_none_and_named(tmp_path):
    put(tmp_path, 1).write_bytes(b"")
    loaded, warnings = load(tmp_path)
    assert loaded is None
    assert len(warnings) == 1


def test_a_changed_header_is_noticed(tmp_path):
    path = put(tmp_path, 123)
    path.write_bytes(path.read_bytes().replace(b'"123"', b'"999"'))
    assert load(tmp_path)[0] is None


def test_a_full_disk_leaves_the_old_checkpoints_and_says_what_to_do(tmp_path, monkeypatch):
    put(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskTrouble) as caught:
        put(tmp_path, 2)
    assert "free some space" in caught.value.advice
    assert names(tmp_path) == ["round-00000001.safetensors"]


def test_an_error_of_the_disk_that_safetensors_reports_becomes_disk_trouble(tmp_path):
    script = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from peer.training.checkpoint import save\n"
        "from peer.training.state import SharedState\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "save(Path(sys.argv[1]), SharedState(2, torch.zeros(100_000)), {}, None, {})\n"
    )
    put(tmp_path, 1)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert "DiskTrouble" in done.stderr
    assert "ulimit" in done.stderr
    assert names(tmp_path) == ["round-00000001.safetensors"]


def test_killing_a_peer_at_any_moment_leaves_a_usable_checkpoint(tmp_path):
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from peer.training.checkpoint import save\n"
        "from peer.training.state import SharedState\n"
        "for round_ in range(1, 10_000):\n"
        "    state = SharedState(round_, torch.full((300_000,), float(round_)))\n"
        "    save(Path(sys.argv[1]), state, {}, None, {})\n"
        "    print(round_, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 5:
                break
        child.send_signal(signal.SIGKILL)
    loaded, warnings = load(tmp_path)
    assert loaded is not None
    assert loaded.state.round >= 5
    assert loaded.state.anchor_P.eq(loaded.state.round).all()
    assert warnings == ()


AT_EVERY_INSTRUCTION = """
import os, signal, sys, torch
from pathlib import Path
from peer.storage import files
from peer.training import checkpoint
from peer.training.state import SharedState

folder, ours = Path(sys.argv[1]), {checkpoint.__file__, files.__file__}
os.fsync = lambda descriptor: None  # a kill is no power cut, and hundreds of syncs would take long

def put(round_):
    numbers = torch.full((3000,), float(round_))
    inner, meta = {"counters": torch.tensor([round_, 1])}, {"tokens": str(round_)}
    checkpoint.save(folder, SharedState(round_, numbers), inner, numbers + 0, meta)

def die_at(instruction):
    left = instruction

    def trace(frame, event, arg):
        nonlocal left
        if frame.f_code.co_filename not in ours:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)

round_, kept, killed, instruction = 2, 1, 0, 0
put(1)
while True:
    child = os.fork()
    if child == 0:
        die_at(instruction)
        put(round_)
        os._exit(0)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    loaded, warnings = checkpoint.load(folder)
    assert loaded is not None and warnings == (), (instruction, warnings)
    found = loaded.state.round
    assert found in (kept, round_), (instruction, kept, round_, found)
    assert loaded.state.anchor_P.eq(found).all() and loaded.meta["tokens"] == str(found), instruction
    assert loaded.residual_P.eq(found).all() and loaded.inner["counters"].tolist() == [found, 1]
    if not died:
        assert found == round_
        break
    killed += 1
    instruction += int(sys.argv[2])
    kept, round_ = round_ + 1, round_ + 2
    put(kept)
    assert len(list(folder.iterdir())) == checkpoint.KEEP, "the next save removes what the killed one left"
print(killed)
"""


def test_killed_at_every_fifth_instruction_it_leaves_a_usable_checkpoint_every_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", AT_EVERY_INSTRUCTION, tmp_path, "5"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "replace", "unlink"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_whatever_call_of_the_system_fails_the_checkpoints_that_were_there_still_are(
    tmp_path, monkeypatch, call, number
):
    for round_ in (1, 2):
        put(tmp_path, round_)
    real = getattr(os, call)
    calls = {"left": 0}

    def failing(path, *rest, **more):
        if calls["left"] == 0:
            raise OSError(number, os.strerror(number))
        calls["left"] -= 1
        return real(path, *rest, **more)

    for left in range(8):
        calls["left"] = left
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            with contextlib.suppress(DiskTrouble):
                put(tmp_path, 3 + left)
        loaded, warnings = load(tmp_path)
        assert loaded is not None
        assert warnings == ()
        assert loaded.state.round >= 2
    put(tmp_path, 20)
    assert load(tmp_path)[0].state.round == 20


def test_drafts_of_a_killed_peer_are_removed_by_the_next_save(tmp_path):
    (tmp_path / "round-00000001.safetensors.draft-999").write_bytes(b"half")
    put(tmp_path, 2)
    assert names(tmp_path) == ["round-00000002.safetensors"]


def test_an_exported_model_comes_back_with_its_names_and_sizes(tmp_path):
    spec = presets["tiny"]
    model = build(spec, 0)
    export(tmp_path / "out" / "model.safetensors", dict(model.named_parameters()), spec, {"run": "demo"})
    found, tensors = load_export(tmp_path / "out" / "model.safetensors")
    assert found == spec
    assert all(torch.equal(tensors[name], weight) for name, weight in model.named_parameters())


def test_an_export_touches_nothing_else_in_the_folder(tmp_path):
    (tmp_path / ".tmp-mine").touch()
    export(tmp_path / "model.safetensors", {"a": torch.zeros(2)}, presets["tiny"], {})
    assert names(tmp_path) == [".tmp-mine", "model.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"something else"])
def test_a_file_that_is_no_model_is_disk_trouble(tmp_path, content):
    path = Path(tmp_path / "model.safetensors")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DiskTrouble):
        load_export(path)


def test_a_checkpoint_is_not_taken_for_a_model(tmp_path):
    with pytest.raises(DiskTrouble):
        load_export(put(tmp_path, 1))
