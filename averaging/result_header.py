"""What stands in front of the numbers of a result, and how long these numbers may be.

    header = one bit for each member, set if its update is in the result ‖ hash of these members' commits

A reducer cannot make an average of any length: its inputs were committed to before it had them. So a member
holds a result only if its norm is at most what the commits allow, and the encoding of the result can add.

Rule 1: A result of more than two thirds of the members, whose reducer had the same commits of them as we
        have, is at most ``Σ c_i · norm_i`` long (`robust.longest`). Updates of honest members do not point in
        exactly one direction, so their average is shorter.
Rule 2: Any other result is at most `LOOSE` times as long as an average of all the updates whose commits we
        have. That is so if a commit of an included member has not reached us, or if the hash shows that the
        reducer had another commit. Liars can bring about both, so it must not cost the result: else one liar
        that commits to different things would stop every round. And it is so for a result of few members:
        liars could be most of those, and confirm each other's norms.
Rule 3: We judge no result before we have the commits of more than half of the members, and hold none that we
        have not judged. If the others decide it, we fetch it like any other that we lack: more than two
        thirds of the members have judged it by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.errors import Malformed
from swarm.hashing import digest
from swarm.identity import PeerId
from swarm.wire import pack

from .messages import bits, flag_bytes, flags_of
from .robust import longest
from .tally import Tally

LOOSE = 4.0
"""How many times as long as usual a result may be if the commits do not say exactly how long. As a rule,
updates of honest peers differ by less, and a part that is four times too long in one round ends no run."""


@dataclass(slots=True, eq=False)
class ResultHeaders:
    """Writes and judges the headers of results, by the commits that one member has heard."""

    tally: Tally
    _digests: dict[PeerId, bytes] = field(default_factory=dict)
    """By member: the hash of its commit."""

    @property
    def can_judge(self) -> bool:
        """Whether we have the commits of more than half of the members."""
        return 2 * len(self.tally.commits) > len(self.tally.group.members)

    def header_of(self, included: Sequence[PeerId]) -> bytes:
        """The header of our result of the ``included`` updates, in member order; all have committed."""
        chosen = set(included)
        flags = bits([member in chosen for member in self.tally.group.members])
        return flags + digest(b"".join(self._digest_of(member) for member in included))

    def most(self, index: int, header: bytes) -> float:
        """How long the numbers of a result of part ``index`` with this header may be.

        Raises `Malformed` if it does not say whose updates are in it.
        """
        included = self._included(header)
        if len(included) >= self.tally.group.quorum and self._agrees(header, included):
            return longest([self.tally.claim(member, index) for member in included])
        return LOOSE * longest([self.tally.claim(member, index) for member in self.tally.commits])

    def _agrees(self, header: bytes, included: Sequence[PeerId]) -> bool:
        """Whether its reducer had the same commits of the ``included`` members as we have."""
        return self.tally.commits.keys() >= set(included) and header == self.header_of(included)

    def _included(self, header: bytes) -> list[PeerId]:
        members = self.tally.group.members
        packed = header[: flag_bytes(len(members))]
        flags = flags_of(packed, len(members))
        if bits(flags) != packed or not any(flags):
            raise Malformed("the result does not say whose updates are in it")
        return [member for member, flag in zip(members, flags, strict=True) if flag]

    def _digest_of(self, member: PeerId) -> bytes:
        if member not in self._digests:
            self._digests[member] = digest(pack(self.tally.commits[member]))
        return self._digests[member]
