"""What a liar does at each opportunity: a table of strategies, each for another attack, and chaos.

An opportunity has a name, and a strategy gives deeds with weights for the beginning of that name:

    send KIND, send ITEM, send ROUTE    a message, a bulk item, another request with a body is about to leave
    hear KIND, hear ITEM, hear ROUTE    one has come, and the honest half of the liar has not seen it yet
    answer ROUTE                        somebody asks for something
    publish                             a record is about to go into the directory
    encode, reduce                      the liar's own update, or the average of a part, is about to be made

The longest beginning counts. What a strategy does not name, the liar does as an honest peer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from enum import Enum, auto

from swarm.seeds import derive


class Deed(Enum):
    """What a liar can do at an opportunity."""

    TRUTH = auto()
    """As an honest peer."""
    SILENCE = auto()
    """Nothing leaves, nothing is passed on, no answer comes."""
    REFUSE = auto()
    """A refusal, of a reason by chance."""
    DELAY = auto()
    """The truth, late."""
    VARY = auto()
    """Another content, drawn anew for each receiver."""
    SPLIT = auto()
    """The truth to one half of the peers, and one and the same lie to the other half."""
    DOUBLE = auto()
    """The truth, and another content to the same receiver."""
    BOAST = auto()
    """All numbers as large as they may be."""
    REPLAY = auto()
    """Something kept from earlier."""
    FORGE = auto()
    """As if the run stood at a state that the liar has made (`forgery`)."""
    DECLINE = auto()
    """The sender is told that there is no place for it."""
    ECHO = auto()
    """The sender is told by the liar what it has just said itself."""
    POISON = auto()
    """Harmful numbers, in the right form, with the right hash."""


Weights = Mapping[Deed, int]
Strategy = Mapping[str, Weights]
"""Weights of deeds by the beginning of the opportunity's name."""


def always(deed: Deed) -> Weights:
    """This deed every time."""
    return {deed: 1}


def often(deed: Deed) -> Weights:
    """This deed half of the time, else the truth."""
    return {deed: 1, Deed.TRUTH: 1}


CHAOS: Strategy = {
    "send": {
        Deed.TRUTH: 6,
        Deed.SILENCE: 2,
        Deed.DELAY: 2,
        Deed.VARY: 4,
        Deed.SPLIT: 3,
        Deed.DOUBLE: 3,
        Deed.BOAST: 1,
        Deed.REPLAY: 2,
    },
    "send hello": {Deed.TRUTH: 20, Deed.VARY: 1},
    "hear": {Deed.TRUTH: 10, Deed.SILENCE: 2, Deed.DELAY: 2, Deed.REFUSE: 1, Deed.DECLINE: 2, Deed.ECHO: 2},
    "answer": {
        Deed.TRUTH: 6,
        Deed.SILENCE: 1,
        Deed.REFUSE: 2,
        Deed.DELAY: 2,
        Deed.VARY: 4,
        Deed.BOAST: 1,
        Deed.REPLAY: 2,
        Deed.FORGE: 4,
    },
    "publish": {Deed.TRUTH: 4, Deed.SILENCE: 1, Deed.VARY: 2, Deed.BOAST: 1},
    "encode": {Deed.TRUTH: 4, Deed.POISON: 1},
    "reduce": {Deed.TRUTH: 4, Deed.POISON: 1},
}
"""Everything, everywhere: also the noise in the other strategies."""

STRATEGIES: Mapping[str, Strategy] = {
    # --- the truth, to be in the average when the lies begin ---
    "honest": {},
    "chaos": CHAOS,
    # --- who averages with whom ---
    "decliner": {
        "hear ready": always(Deed.DECLINE),
        "hear proposal": always(Deed.DECLINE),
        "hear vote": often(Deed.DECLINE),
    },
    "two lists": {"send proposal": always(Deed.SPLIT), "hear vote": always(Deed.ECHO)},
    "silent leader": {"send proposal": always(Deed.SILENCE)},
    "late leader": {"send proposal": always(Deed.DELAY), "send ready": often(Deed.DELAY)},
    "two votes": {"send vote": {Deed.SPLIT: 1, Deed.DOUBLE: 1}, "hear vote": often(Deed.ECHO)},
    "no show": {"send": always(Deed.SILENCE), "send progress": {}, "send hello": {}},
    # --- what the average is ---
    "two ballots": {
        "send holdings": {Deed.SPLIT: 2, Deed.VARY: 1, Deed.TRUTH: 1},
        "send ballot": {Deed.SPLIT: 2, Deed.VARY: 1, Deed.DOUBLE: 1},
        "hear ballot": often(Deed.ECHO),
    },
    "yes man": {
        "hear vote": always(Deed.ECHO),
        "hear commit": often(Deed.ECHO),
        "hear holdings": always(Deed.ECHO),
        "hear ballot": always(Deed.ECHO),
    },
    "two faces": {
        "send commit": always(Deed.SPLIT),
        "send receipt": always(Deed.SPLIT),
        "send part": always(Deed.SPLIT),
        "send update": always(Deed.SPLIT),
        "send result": always(Deed.SPLIT),
        "send copy": always(Deed.SPLIT),
        "send holdings": often(Deed.SPLIT),
    },
    "staller": {
        "send part": always(Deed.SILENCE),
        "send update": always(Deed.SILENCE),
        "send result": often(Deed.SILENCE),
        "send copy": always(Deed.SILENCE),
        "answer item": always(Deed.SILENCE),
    },
    "wrong numbers": {
        "send part": often(Deed.VARY),
        "send update": often(Deed.VARY),
        "send result": often(Deed.VARY),
        "send copy": always(Deed.VARY),
        "answer item": always(Deed.VARY),
    },
    "poisoner": {"encode": always(Deed.POISON), "reduce": often(Deed.POISON)},
    "boaster": {
        "send ready": always(Deed.BOAST),
        "send commit": always(Deed.BOAST),
        "send proposal": always(Deed.BOAST),
        "send progress": always(Deed.BOAST),
        "answer offer": always(Deed.BOAST),
        "publish": always(Deed.BOAST),
    },
    # --- where the run stands ---
    "forger": {
        "answer offer": always(Deed.FORGE),
        "answer record": always(Deed.FORGE),
        "answer index": always(Deed.FORGE),
        "answer chunk": always(Deed.FORGE),
        "hear ready": {Deed.DECLINE: 1, Deed.TRUTH: 2},
        "hear proposal": often(Deed.DECLINE),
    },
    "quiet forger": {
        "answer offer": {Deed.FORGE: 1, Deed.TRUTH: 1},
        "answer record": always(Deed.FORGE),
        "answer index": always(Deed.FORGE),
        "answer chunk": always(Deed.FORGE),
    },
    "many heads": {"answer offer": {Deed.VARY: 3, Deed.TRUTH: 1}, "publish": often(Deed.VARY)},
    "wrong chunks": {
        "answer index": often(Deed.VARY),
        "answer chunk": {Deed.VARY: 2, Deed.SILENCE: 1},
        "answer record": often(Deed.VARY),
    },
    # --- time ---
    "mute": {"answer": {Deed.SILENCE: 1, Deed.REFUSE: 1}, "hear": often(Deed.REFUSE)},
    "slow": {"send": {Deed.DELAY: 2, Deed.TRUTH: 1}, "answer": often(Deed.DELAY), "hear": often(Deed.DELAY)},
    "replayer": {"send": {Deed.REPLAY: 1, Deed.TRUTH: 2}, "answer": {Deed.REPLAY: 1, Deed.TRUTH: 2}},
}
"""By name."""


def chance_of(seed: int, name: str, incarnation: int) -> random.Random:
    """All chance of one incarnation of a liar, in a rehearsal with ``seed``."""
    return random.Random(derive(b"rehearsed liar", seed, name, incarnation))


def first_strategy(seed: int, name: str, fixed: str) -> str:
    """The strategy with which a liar begins: for people, before the rehearsal or where it has failed."""
    told: list[str] = []
    temper = Temper(chance_of(seed, name, 1), fixed, told.append)
    return told[0] if temper.is_steady else f"{told[0]}, then others"


def weights_of(strategy: Strategy, opportunity: str) -> Weights:
    """What ``strategy`` does at ``opportunity``; nothing where it is honest."""
    names = [name for name in strategy if (opportunity + " ").startswith(name + " ")]
    return strategy[max(names, key=len)] if names else {}


NOISE = (0.0, 0.05, 0.3)
"""Shares of all opportunities at which a liar does something by chance, whatever its strategy says."""


class Temper:
    """What one liar does: its strategy of now, and how often chance takes over."""

    def __init__(self, chance: random.Random, fixed: str, tell: Callable[[str], object]) -> None:
        """``fixed`` names a strategy for the whole run; if it is empty, ``chance`` draws.

        Half of the liars keep what they have drawn, the others draw again at each new position. ``tell`` is
        called with the name of every strategy that is taken up. Raises `KeyError` for an unknown name.
        """
        self.chance = chance
        self.tell = tell
        self.is_steady = bool(fixed) or chance.random() < 0.5
        """Whether this liar has one strategy for the whole run."""
        self._noise = 0.0 if fixed else chance.choice(NOISE)
        self._strategy = self._take_up(fixed) if fixed else self._any_lie()

    def _any_lie(self) -> Strategy:
        """One strategy, or two at a time: what both name, the second does."""
        names = [name for name in STRATEGIES if name != "honest"]
        return self._take_up(*self.chance.sample(names, self.chance.choice((1, 1, 2))))

    def _take_up(self, *names: str) -> Strategy:
        self.tell(" and ".join(names))
        if len(names) == 1:
            return STRATEGIES[names[0]]
        return {opportunity: weights for name in names for opportunity, weights in STRATEGIES[name].items()}

    @property
    def is_restless(self) -> bool:
        """Whether the liar also speaks without an occasion."""
        return self._noise > 0 or self._strategy is CHAOS

    def turn(self) -> None:
        """The liar has come to a new position: it may change its mind."""
        if not self.is_steady:
            is_honest = self.chance.random() < 0.2
            self._strategy = self._take_up("honest") if is_honest else self._any_lie()

    def draw(self, opportunity: str) -> Deed:
        """What to do at ``opportunity``."""
        by_chance = self._noise > 0 and self.chance.random() < self._noise
        weights = weights_of(CHAOS if by_chance else self._strategy, opportunity)
        if not weights:
            return Deed.TRUTH
        return self.chance.choices(list(weights), list(weights.values()))[0]
