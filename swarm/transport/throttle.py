"""Rate limiting: a token bucket, as arithmetic without a clock of its own."""

from __future__ import annotations


class TokenBucket:
    """Holds at most ``burst`` tokens and gains ``rate`` tokens per second of the caller's clock.

    It starts full.

    To slow down, call `take` and sleep for the seconds that it returns. To refuse, call `wait` first and
    `take` only at 0.
    """

    def __init__(self, rate: float, burst: float) -> None:
        if not (rate > 0 and burst > 0):
            raise ValueError("rate and burst must be positive")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._time = float("-inf")

    def __repr__(self) -> str:
        return f"TokenBucket({self._tokens:.0f} of {self.burst:.0f}, {self.rate:.0f}/s)"

    def wait(self, size: float, now: float) -> float:
        """Seconds until ``size`` tokens are available, at most until the bucket is full. Takes none."""
        self._refill(now)
        return max(0.0, (min(size, self.burst) - self._tokens) / self.rate)

    def take(self, size: float, now: float) -> float:
        """Take ``size`` tokens, even if there are fewer.

        Returns the seconds until they would have come in.
        """
        self._refill(now)
        self._tokens -= size
        return max(0.0, -self._tokens / self.rate)

    def give_back(self, size: float) -> None:
        """Return ``size`` tokens that were taken and not used."""
        self._tokens = min(self.burst, self._tokens + size)

    def _refill(self, now: float) -> None:
        """Add the tokens of the time since the last call. A clock that goes backwards changes nothing."""
        if now > self._time:
            self._tokens = min(self.burst, self._tokens + self.rate * (now - self._time))
            self._time = now
