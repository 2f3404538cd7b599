"""The retry budget: retries and hedges of a cluster together are at most a share of what is in flight (threats H1)."""

from __future__ import annotations

from flui.model.resilience import WHOLE_BP, Budget


class RetryBudget:
    """Counts the retries and hedges of one cluster. Each `take` that said True is followed by exactly one `give`."""

    __slots__ = ("_least", "_share_bp", "used")

    def __init__(self, rules: Budget) -> None:
        self._least = rules.least
        self._share_bp = rules.share_bp
        self.used = 0
        """Retries and hedges under way."""

    def retune(self, rules: Budget) -> None:
        """Takes up other rules; what is under way stays counted."""
        self._least = rules.least
        self._share_bp = rules.share_bp

    def allowed(self, active: int) -> int:
        """Retries and hedges that may be under way at a time.

        Args:
            active: Requests in flight in the cluster, retries included.
        """
        share = active * self._share_bp // WHOLE_BP
        return share if share > self._least else self._least

    def take(self, active: int) -> bool:
        """Reserves one retry or hedge, from when it is scheduled, through its pause, to its end.

        Args:
            active: Requests in flight in the cluster, retries included.

        Returns:
            False when the budget is used up: the failed try is final, the hedge does not begin.
        """
        used = self.used
        if used < self._least or (used + 1) * WHOLE_BP <= active * self._share_bp:
            self.used = used + 1
            return True
        return False

    def give(self) -> None:
        """A retry or hedge has ended, or was called off."""
        assert self.used > 0, "a retry was given back that nobody took"
        self.used -= 1
