"""A liar's mind: what it knows, what it does at each opportunity, the bytes of its lies. It sends nothing.

draw(opportunity)        which deed: the strategy's, or one by chance                     `strategies`
in_place_of(request)     what leaves instead: another message, the other face, a replay   `lies`, `faces`
changed_reply(reply)     what it answers instead, also from a forged state                `forgery`
decline, echo            what it tells a peer whose message has just come
initiative()             a lie without an occasion, to any peers
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from averaging.messages import MESSAGES, Decline, DeclineReason
from averaging.record import Record
from swarm.bounded import LeastRecentlyUsed
from swarm.errors import TheirFault
from swarm.identity import KeyPair, PeerId
from swarm.manifest import RunManifest
from swarm.seeds import derive
from swarm.transport import Payload, Request
from swarm.transport.outbox import BULK_ROUTE, MESSAGE_ROUTE
from swarm.wire import NO_GROUP, Message, Signed, Stamp, level_of, pack, seal, unpack

from ..data.corpus import Corpus
from ..network.membership import Welcome
from .faces import Faces
from .forgery import Forger
from .lies import Grammar, Hearsay, opened
from .strategies import Deed, Temper

STRUCTS: Mapping[str, type[msgspec.Struct]] = {"hello": Welcome, "record": Record}
"""Routes that reply with a packed value: what it is. All other replies are frames, bytes, or empty."""
SPLIT_LIES = 128
"""So many lies are remembered that one half of the peers has been told, so that all of it hears the same."""


class Mind:
    """See the module."""

    def __init__(
        self,
        manifest: RunManifest,
        corpus: Corpus,
        key: KeyPair,
        everybody: Sequence[PeerId],
        temper: Temper,
    ) -> None:
        """``everybody`` are the peers of the run; ``temper`` also has the liar's chance."""
        chance = temper.chance
        self.temper = temper
        self.chance = chance
        self.hearsay = Hearsay(manifest.run_id)
        self.faces = Faces()
        self.forger = Forger(manifest, corpus, key.peer_id, everybody, chance)
        self._run = manifest.run_id
        self._key = key
        self._others = [peer for peer in everybody if peer != key.peer_id]
        self._grammar = Grammar(chance, self.hearsay)
        self._told_half: LeastRecentlyUsed[bytes, bytes] = LeastRecentlyUsed(SPLIT_LIES)

    def draw(self, opportunity: str) -> Deed:
        """What to do at ``opportunity`` (see `strategies`)."""
        return self.temper.draw(opportunity)

    # --- what leaves ----------------------------------------------------------------------------------------

    def in_place_of(self, request: Request, deed: Deed, to: PeerId) -> Request:
        """What leaves for ``to`` instead of ``request``."""
        if deed is Deed.REPLAY:
            kept: list[Request] = [*self.hearsay.requests.get(request.route, ()), request]
            return self.chance.choice(kept)
        return replace(request, body=self._changed(request.body, deed, to))

    def published(self, record: bytes, deed: Deed) -> bytes:
        """What goes into the directory instead of ``record``."""
        return bytes(self._changed(record, deed, self._key.peer_id))

    def _changed(self, raw: Payload, deed: Deed, to: PeerId) -> Payload:
        """A frame or bulk bytes, changed as ``deed`` says, for the eyes of ``to``."""
        if deed is Deed.SPLIT and not self._sees_other_face(to):
            return raw
        signed = opened(bytes(raw), self._run)
        if signed is None:
            return self._changed_bytes(raw, deed)
        if deed is Deed.SPLIT:
            return self._for_other_half(signed)
        return self._changed_frame(signed, deed)

    def _changed_frame(self, signed: Signed[Message], deed: Deed) -> bytes:
        message = signed.message
        stamp = signed.stamp
        if deed is Deed.BOAST:
            message = self._grammar.boasted(message)
        elif deed is Deed.FORGE:
            return self._as_of_forgery(signed)
        elif not message.__struct_fields__ or self.chance.random() < 0.2:
            stamp = self._grammar.stamped(stamp)
        else:
            message = self._grammar.varied(message)
        return seal(self._key, message, stamp)

    def _as_of_forgery(self, signed: Signed[Message]) -> bytes:
        """``signed`` as if the run stood at the forged state."""
        forgery = self.forger.current
        if forgery is None or not hasattr(signed.message, "state_root"):
            return signed.raw
        message = msgspec.structs.replace(signed.message, state_root=forgery.root)
        return seal(self._key, message, replace(signed.stamp, round=forgery.round))

    def _for_other_half(self, signed: Signed[Message]) -> bytes:
        """The same lie for all who see the other face."""
        lie = self._told_half.get(signed.raw)
        if lie is None:
            message = self.faces.other_message(signed.message)
            lie = (
                self._changed_frame(signed, Deed.VARY)
                if message is None
                else seal(self._key, message, signed.stamp)
            )
            self._told_half[signed.raw] = lie
        return lie

    def _changed_bytes(self, raw: Payload, deed: Deed) -> Payload:
        """Bulk bytes: the second face, or other bytes, mostly of the same length; a packed value: another."""
        other = self.faces.other_payload(raw) if deed is Deed.SPLIT else None
        if other is not None:
            return other
        if self.chance.random() < 0.1:
            return self._grammar.resized(raw)
        return self._grammar.repacked(raw) or self._grammar.twisted(raw)

    def _sees_other_face(self, peer: PeerId) -> bool:
        return derive(self._run, "face", self._key.peer_id, peer) % 2 == 1

    # --- what is answered -----------------------------------------------------------------------------------

    def changed_reply(self, route: str, reply: Payload, deed: Deed) -> Payload:
        """What the liar answers instead of ``reply``."""
        if deed is Deed.REPLAY:
            kept: list[Payload] = [*self.hearsay.replies.get(route, ()), reply]
            return self.chance.choice(kept)
        form = STRUCTS.get(route)
        signed = opened(bytes(reply), self._run)
        if signed is not None:
            return self._changed_frame(signed, deed)
        if deed is Deed.FORGE:
            return reply
        if form is not None and self.chance.random() < 0.9:
            value = unpack(reply, form)
            change = self._grammar.boasted if deed is Deed.BOAST else self._grammar.varied
            return pack(change(value))
        return self._changed_bytes(reply, deed)

    def note_heard(self, route: str, reply: Payload) -> None:
        """Remember what another peer has answered; what is wrong with it is for the honest half to find."""
        self.hearsay.note_bytes(reply)
        if route in STRUCTS:
            with contextlib.suppress(TheirFault):
                self.hearsay.note(unpack(reply, STRUCTS[route]))

    def note_reply(self, route: str, reply: Payload) -> None:
        """Remember what the liar has been about to answer."""
        self.hearsay.note_reply(route, reply)
        self.note_heard(route, reply)

    # --- what is said at once -------------------------------------------------------------------------------

    def decline(self, signed: Signed[Message]) -> Request:
        """Tell the sender of ``signed`` that there is no place for it."""
        because = self.chance.choice((*DeclineReason, DeclineReason.FORMED))
        round_ = signed.stamp.round + self.chance.choice((0, 0, 1, 7))
        decline = Decline(round_, "come with the next", because)
        if self.chance.random() < 0.7:
            decline = self._grammar.completed(decline)
        if self.chance.random() < 0.2:
            decline = self._grammar.varied(decline)
        return self._mail(decline, replace(signed.stamp, group=level_of(signed.stamp.group)))

    def echo(self, signed: Signed[Message]) -> Request:
        """Tell the sender of ``signed`` what it has said itself, as the liar's own word."""
        return self._mail(signed.message, signed.stamp)

    def initiative(self) -> tuple[Sequence[PeerId], Request] | None:
        """A lie without an occasion, and who hears it; None if nothing comes to mind."""
        request = self.chance.choice((self._invention, self._invention, self._variation, self._repetition))()
        if request is None or not self._others:
            return None
        count = self.chance.choice((1, 1, 2, len(self._others)))
        return self.chance.sample(self._others, min(count, len(self._others))), request

    def _invention(self) -> Request | None:
        """A message out of nothing, of any kind of a round."""
        form = self.chance.choice(list(MESSAGES))
        message = self._grammar.invented(form)
        if message is None:
            return None
        groups = list(self.hearsay.values.get("group", ()))
        names_group = not MESSAGES[form] or not form.__struct_fields__
        group = self.chance.choice(groups) if names_group and groups else NO_GROUP
        round_ = max(0, self.hearsay.round + self.chance.choice((0, 0, 0, 1, -1)))
        return self._mail(message, Stamp(self._run, round_, group, self.chance.getrandbits(40)))

    def _variation(self) -> Request | None:
        """Something that somebody has said in a round, changed, or as it was."""
        frames = [raw for form in MESSAGES for raw in self.hearsay.frames.get(int(form.kind), ())]
        signed = opened(self.chance.choice(frames), self._run) if frames else None
        if signed is None:
            return None
        is_replay = self.chance.random() < 0.3
        frame = signed.raw if is_replay else self._changed_frame(signed, Deed.VARY)
        return Request(MESSAGE_ROUTE, frame, limit=0)

    def _repetition(self) -> Request | None:
        """A request of any route that the liar has sent before, with another body."""
        routes = sorted(self.hearsay.requests)
        if not routes:
            return None
        request = self.chance.choice(list(self.hearsay.requests[self.chance.choice(routes)]))
        groups = list(self.hearsay.values.get("group", ()))
        if request.route == BULK_ROUTE and groups and self.chance.random() < 0.5:
            _, _, item = request.argument.partition(".")
            request = replace(request, argument=f"{self.chance.choice(groups).hex()}.{item}")
        return replace(request, body=self._changed(request.body, Deed.VARY, self._key.peer_id))

    def _mail(self, message: Message, stamp: Stamp) -> Request:
        return Request(MESSAGE_ROUTE, seal(self._key, message, stamp), limit=0)
