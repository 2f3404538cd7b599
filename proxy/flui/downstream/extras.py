"""What only few routes ask for: rates of their own, faults made on purpose, a mirror. Off the common path, which asks one flag."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from flui.downstream.mirror import Mirrors
from flui.model.decision import Forward
from flui.model.fault import Fault
from flui.model.resilience import WHOLE_BP, Rate
from flui.resilience.bucket import Rates
from flui.telemetry.families import INJECTED, RATE_LIMITED
from flui.upstream.guard import Refusal

if TYPE_CHECKING:
    from flui.downstream.exchange import Exchange
    from flui.downstream.relay import Relay


class Extras:
    """Carries them out for one relay."""

    __slots__ = ("_random", "_rates", "_relay", "mirrors")

    def __init__(self, relay: Relay, random: Random) -> None:
        self._relay = relay
        self._random = random
        self._rates: dict[tuple[str, str], tuple[tuple[Rate, ...], Rates]] = {}
        """By listener and route; what is spent outlives a reload."""
        self.mirrors = Mirrors(relay)

    def holds_back(self, exchange: Exchange, forward: Forward, now: float) -> bool:
        """Whether the exchange does not go on now: it is refused, aborted, or waits on purpose.

        What is mirrored is noted on the way: its copy leaves when the request is complete.
        """
        splice = exchange.splice
        why = splice.decision.why
        if forward.rates:
            wait_s = self._rates_of(why.listener, why.route, forward.rates, now).take(exchange.down.principal, now)
            if wait_s > 0:
                self._relay.meters.count(RATE_LIMITED, why.listener, why.route)
                self._relay.refused(splice, "", Refusal(Fault.RATE_LIMITED, wait_s), forward.priority)
                return True
        mirror = forward.mirror
        if mirror is not None and self._happens(mirror.share_bp):
            self.mirrors.note(exchange, mirror.cluster)
        inject = forward.inject
        if inject is None:
            return False
        if inject.abort_status and self._happens(inject.abort_bp):
            self._relay.meters.count(INJECTED, why.route, "abort")
            splice.fail(Fault.INJECTED, inject.abort_status)
            return True
        if inject.delay_s and self._happens(inject.delay_bp):
            self._relay.meters.count(INJECTED, why.route, "delay")
            exchange.pause(inject.delay_s, partial(_go, exchange, forward))
            return True
        return False

    def _happens(self, share_bp: int) -> bool:
        return share_bp >= WHOLE_BP or self._random.randrange(WHOLE_BP) < share_bp

    def _rates_of(self, listener: str, route: str, rules: tuple[Rate, ...], now: float) -> Rates:
        found = self._rates.get((listener, route))
        if found is not None and found[0] is rules:
            return found[1]
        rates = found[1] if found is not None else Rates(rules)
        if found is not None and found[0] != rules:
            rates.retune(rules, now)
        self._rates[listener, route] = (rules, rates)
        return rates

    def forget(self, routes: frozenset[str]) -> None:
        """Drops what belongs to routes that are gone."""
        for key in [key for key in self._rates if key[1] not in routes]:
            del self._rates[key]


def _go(exchange: Exchange, forward: Forward, now: float) -> None:
    exchange.go(forward, now)
