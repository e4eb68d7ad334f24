"""How fast is too fast: a token bucket, as arithmetic without a clock."""

from __future__ import annotations


class TokenBucket:
    """Holds at most ``burst`` tokens and gains ``rate`` per second of the caller's clock. Starts full.

    Two uses: whoever must slow down takes first and then sleeps for what `take` says; whoever must refuse asks `wait` first.
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
        """Seconds until ``size`` tokens are there; takes none. More than ``burst`` are there as soon as the bucket is full."""
        self._refill(now)
        return max(0.0, (min(size, self.burst) - self._tokens) / self.rate)

    def take(self, size: float, now: float) -> float:
        """Take ``size`` tokens, on credit where there are too few; the seconds after which the credit is paid back, 0 at once."""
        self._refill(now)
        self._tokens -= size
        return max(0.0, -self._tokens / self.rate)

    def _refill(self, now: float) -> None:
        """A clock that goes backwards adds nothing and takes nothing."""
        if now > self._time:
            self._tokens = min(self.burst, self._tokens + self.rate * (now - self._time))
            self._time = now
