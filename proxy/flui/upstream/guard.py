"""What one cluster may be asked for at a time: breaker, adaptive limit, rates, and the budget of retries.

Everything that is refused here was never sent: it is answered at once, and says so, so that nobody sends it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flui.model.fault import Fault
from flui.model.topology import Cluster
from flui.resilience.bucket import Rates
from flui.resilience.budget import RetryBudget
from flui.resilience.limiter import Limiter


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not sent."""

    fault: Fault
    after_s: float = 0.0
    """When it may come again; 0: not known."""
    what: str = ""
    """Which limit, for the metric."""


class Guard:
    """The limits of one cluster at work."""

    __slots__ = ("_cluster", "_rates", "budget", "is_busy", "limiter", "requests")

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.budget = RetryBudget(cluster.budget)
        self.limiter = Limiter(cluster.concurrency) if cluster.concurrency is not None else None
        self._rates = Rates(cluster.rates)
        self.requests = cluster.breaker.requests
        """Requests in flight at most."""
        self.is_busy = self.limiter is not None or bool(cluster.rates)
        """Each request must be asked about, not only those past `requests`."""

    def update(self, cluster: Cluster) -> None:
        """Takes up other rules; what is learnt under rules that stay is kept, and what is spent stays spent."""
        before = self._cluster
        self._cluster = cluster
        if cluster.concurrency != before.concurrency:
            self.limiter = Limiter(cluster.concurrency) if cluster.concurrency is not None else None
        if cluster.rates != before.rates:
            self._rates.retune(cluster.rates, time.monotonic())
        if cluster.budget != before.budget:
            self.budget.retune(cluster.budget)
        self.requests = cluster.breaker.requests
        self.is_busy = self.limiter is not None or bool(cluster.rates)

    def refuses(self, active: int, priority: int, principal: str, now: float) -> Refusal | None:
        """Whether a request must not be sent now; None: it may.

        Args:
            active: Requests in flight.
            priority: As in `model.resilience`.
            principal: Who asks.
            now: Monotonic seconds.
        """
        if active >= self.requests:
            return Refusal(Fault.CIRCUIT_OPEN, what="requests")
        limiter = self.limiter
        if limiter is not None and not limiter.admit(active, priority):
            return Refusal(Fault.OVERLOADED, what="concurrency")
        if self._cluster.rates:
            wait_s = self._rates.take(principal, now)
            if wait_s > 0:
                return Refusal(Fault.RATE_LIMITED, wait_s, "rate")
        return None
