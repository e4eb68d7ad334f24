"""The grammar of lies: whatever the kind of message, its lies are well-formed, and the seed decides them."""

from __future__ import annotations

import random

import msgspec
import pytest

from averaging.messages import MESSAGES, Commit, Holdings, Proposal, Ready
from peer.simulation.lies import FORMS, KEPT, Grammar, Hearsay
from swarm.manifest import Codec, RunManifest
from swarm.transport import Request
from swarm.wire import Message, Stamp, open_frame, seal
from tests.peer.company import MANIFEST, RUN, key

ROOT = bytes(range(32))
READY = Ready(ROOT, uplink=5)
COMMIT = Commit((ROOT, bytes(32)), (1.0, 2.0), 100, ROOT, ROOT, Codec.INT4)
DRAWS = 60
INVENTED = [form for form in FORMS if form is not RunManifest]
"""A manifest has too many rules for chance: liars only change the one that there is."""


def ready_frame(number: int) -> bytes:
    """The `Ready` of peer ``number``, as it would sign it."""
    return seal(key(number), Ready(ROOT, uplink=number), Stamp(RUN, 3))


def grammar(seed: int = 0) -> Grammar:
    """A grammar that has heard three peers."""
    hearsay = Hearsay(RUN)
    for number in range(3):
        hearsay.hear(ready_frame(number))
    return Grammar(random.Random(seed), hearsay)


def test_every_kind_of_message_is_known_to_the_grammar() -> None:
    assert set(MESSAGES) <= set(FORMS)


@pytest.mark.parametrize("form", INVENTED, ids=lambda form: form.__name__)
def test_a_message_of_any_kind_can_be_invented_and_its_receiver_can_read_it(form: type[Message]) -> None:
    draw = grammar()
    invented = [draw.invented(form) for _ in range(DRAWS)]
    messages = [message for message in invented if message is not None]
    assert messages
    for message in messages:
        frame = seal(key(1), message, Stamp(RUN, 3))
        assert open_frame(frame, form, run=RUN, limit=1 << 20).message == message


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_variation_of_any_message_is_another_message_of_its_kind(form: type[Message]) -> None:
    draw = grammar()
    truth = MANIFEST if form is RunManifest else draw.invented(form)
    assert truth is not None
    lies = [draw.varied(truth) for _ in range(DRAWS)]
    assert all(type(lie) is form for lie in lies)
    if form.__struct_fields__:
        assert sum(lie != truth for lie in lies) > DRAWS / 2


def test_the_same_seed_tells_the_same_lies_and_another_seed_others() -> None:
    def lies(seed: int) -> list[Commit]:
        draw = grammar(seed)
        return [draw.varied(COMMIT) for _ in range(DRAWS)]

    assert lies(1) == lies(1)
    assert lies(1) != lies(2)


def test_a_boast_has_the_largest_numbers_that_are_allowed() -> None:
    boast = grammar().boasted(READY)
    assert (boast.uplink, boast.peers) == (10**8, 1 << 20)
    assert boast.state_root == READY.state_root
    assert grammar().boasted(COMMIT).weight == (1 << 50) - 1


def test_a_lie_about_a_list_of_frames_lists_frames_of_the_same_kind() -> None:
    draw = grammar()
    heard = {ready_frame(number) for number in range(3)}
    listed = [draw.invented(Proposal) for _ in range(DRAWS)]
    frames = [raw for proposal in listed if proposal for raw in proposal.ready]
    assert heard <= set(frames)


def test_what_is_empty_is_completed_from_what_others_have_shown() -> None:
    class Claim(msgspec.Struct, frozen=True):
        proof: bytes = b""
        other: bytes = b""

    hearsay = Hearsay(RUN)
    hearsay.note(Claim(proof=b"of another peer"))
    assert Grammar(random.Random(0), hearsay).completed(Claim()) == Claim(proof=b"of another peer")


def test_other_bytes_mostly_have_the_same_length() -> None:
    draw = grammar()
    truth = bytes(range(100))
    assert all(len(draw.twisted(truth)) == 100 for _ in range(DRAWS))
    assert any(draw.twisted(truth) != truth for _ in range(DRAWS))
    assert all(len(draw.resized(truth)) != 100 for _ in range(DRAWS))


def test_a_packed_value_of_an_unknown_form_stays_a_packed_value() -> None:
    raw = msgspec.msgpack.encode((1, b"proof", (b"a", b"b")))
    draw = grammar()
    lies = [draw.repacked(raw) for _ in range(DRAWS)]
    assert any(lie != raw for lie in lies)
    assert all(lie is not None and isinstance(msgspec.msgpack.decode(lie), list) for lie in lies)
    assert draw.repacked(b"no packed value") is None


def test_a_liar_remembers_only_the_newest() -> None:
    hearsay = Hearsay(RUN)
    for number in range(2 * KEPT):
        root = number.to_bytes(32, "little")
        hearsay.hear(seal(key(1), Holdings((root,)), Stamp(RUN, number)))
        hearsay.note_bytes(root + b"bulk")
        hearsay.note_request(Request("mail", root))
        hearsay.note_reply("offer", root)
    kept = [hearsay.frames, hearsay.values, hearsay.payloads, hearsay.requests, hearsay.replies]
    assert all(len(entries) <= KEPT for by_key in kept for entries in by_key.values())
    assert hearsay.values["hashes"][-1] == (2 * KEPT - 1).to_bytes(32, "little")


def test_a_frame_of_another_run_teaches_nothing() -> None:
    hearsay = Hearsay(RUN)
    assert hearsay.hear(seal(key(1), READY, Stamp(bytes(32)))) is None
    assert not hearsay.frames
