"""Spend: reserve before the call, count while it runs, settle after it. Integers only. Pure.

    reserve(estimate) ─▶ the call ─▶ settle(what it cost)

- One pool per node: every worker takes from the same counters, so that concurrent calls together
  never pass the ceiling (DESIGN §6b-2). A reservation is all or nothing.
- What crashes between the two stays spent until its day ends: fail expensive, never free.
- An answer may cost more than was reserved (the provider counts, we estimate): the rest is charged
  even above the ceiling, and the next reservation is refused.
- A model without a price is refused, unless the operator says that it is free: a budget would mean
  nothing (llm-routing reference §7).

Money is micro-USD, prices are micro-USD per million tokens, days are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.ports import Clock, Collection
from firewall.core.principal import Principal
from llm_router.answer import Usage

DAY_US: Final = 86_400_000_000
MILLION: Final = 1_000_000
NO_CEILING: Final = 2**62
BYTES_PER_TOKEN: Final = 2  # below every tokenizer's average on text and JSON: an estimate errs upwards
IMAGE_TOKENS: Final = 1_600
MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, micro-USD per million tokens. free: the operator says that zero is meant."""

    input: int
    output: int
    free: bool = False

    @classmethod
    def of_usd(cls, input_usd: float, output_usd: float, *, free: bool = False) -> Price:
        """Return the price of US dollars per million tokens."""
        return cls(round(input_usd * MICRO), round(output_usd * MICRO), free)

    @property
    def known(self) -> bool:
        """Whether a budget can be kept with it; zero counts as unknown (unpriced models look like that)."""
        return self.free or (self.input > 0 and self.output > 0)

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Return micro-USD, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // MILLION)


@dataclass(frozen=True, slots=True)
class Budget:
    """Ceilings per caller (tenant, subject, client) and UTC day. A ceiling of 0 refuses whatever costs any."""

    tokens_per_day: int = 5_000_000
    micro_usd_per_day: int = 20 * MICRO


class BudgetExceeded(Malformed):
    """Nothing is left; ``retry_after_s`` is when the day ends (1–86,400 seconds)."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("budget_exceeded")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Tally:
    """What one call has used so far.

    input_tokens: our estimate of the prompt. output_bytes: UTF-8 bytes of text and arguments that
    arrived. usage: the provider's own count, when it came. reached: whether the provider took the
    prompt; it bills nothing for a call that it refused or never saw.
    """

    input_tokens: int
    output_bytes: int = 0
    usage: Usage | None = None
    reached: bool = False

    def actual(self) -> Usage:
        """Return what is to be charged."""
        if not self.reached:
            return Usage(0, 0)
        return self.usage or Usage(self.input_tokens, tokens_of(self.output_bytes))


@dataclass(slots=True)
class Reservation:
    """Tokens and money set aside for one call; settled once."""

    tenant: str
    key: str
    expires_us: int
    price: Price
    tokens: int
    micro_usd: int
    settled: bool = False


def tokens_of(size: int) -> int:
    """Return an upper estimate of the tokens in ``size`` bytes of UTF-8."""
    return -(-size // BYTES_PER_TOKEN)


def prompt_tokens(payload_bytes: int, images: int, image_chars: int) -> int:
    """Return an upper estimate of a prompt's tokens: text by its bytes, images by their number."""
    return tokens_of(max(0, payload_bytes - image_chars)) + images * IMAGE_TOKENS


class Meter:
    """Budgets of callers in a collection that all workers of the node share."""

    def __init__(self, pool: Collection, clock: Clock, budget: Budget) -> None:
        self._pool = pool
        self._clock = clock
        self._budget = budget

    def reserve(
        self, principal: Principal, price: Price | None, *, input_tokens: int, output_tokens: int
    ) -> Reservation:
        """Set aside the most that a call can cost.

        Raises Malformed("model_unpriced"), BudgetExceeded, StateUnavailable.
        """
        if price is None or not price.known:
            raise Malformed("model_unpriced")
        now = self._clock.now_us()
        day = now // DAY_US
        key = f"{day}/{len(principal.subject)}:{principal.subject}/{principal.client_id}"
        held = Reservation(principal.tenant, key, (day + 2) * DAY_US, price, 0, 0)
        tokens = input_tokens + output_tokens
        money = price.cost(input_tokens, output_tokens)
        held.tokens = self._add(held, "tokens", tokens, self._budget.tokens_per_day)
        try:
            held.micro_usd = self._add(held, "usd", money, self._budget.micro_usd_per_day)
        except StateUnavailable:
            self._give_back(held)
            raise
        if held.tokens < tokens or held.micro_usd < money:
            self._give_back(held)
            raise BudgetExceeded(max(1, -(-((day + 1) * DAY_US - now) // 1_000_000)))
        return held

    def settle(self, held: Reservation, used: Usage) -> int:
        """Charge what was used instead of what was reserved; return it in micro-USD. The second call does nothing.

        Never raises: when the store does not answer, the reservation stays spent.
        """
        cost = held.price.cost(used.input, used.output)
        if held.settled:
            return cost
        held.settled = True
        try:
            self._add(held, "tokens", used.input + used.output - held.tokens, NO_CEILING)
            self._add(held, "usd", cost - held.micro_usd, NO_CEILING)
        except StateUnavailable:
            pass
        return cost

    def spent(self, principal: Principal) -> tuple[int, int]:
        """Return tokens and micro-USD spent or reserved today."""
        day = self._clock.now_us() // DAY_US
        key = f"{day}/{len(principal.subject)}:{principal.subject}/{principal.client_id}"
        counts = [self._pool.get(principal.tenant, f"{key}/{kind}") for kind in ("tokens", "usd")]
        tokens, money = (int(entry.value) if entry is not None else 0 for entry in counts)
        return tokens, money

    def _add(self, held: Reservation, kind: str, delta: int, ceiling: int) -> int:
        if not delta:
            return 0
        return self._pool.add(held.tenant, f"{held.key}/{kind}", delta, ceiling=ceiling, expires_us=held.expires_us)

    def _give_back(self, held: Reservation) -> None:
        try:
            self._add(held, "tokens", -held.tokens, NO_CEILING)
            self._add(held, "usd", -held.micro_usd, NO_CEILING)
        except StateUnavailable:
            pass
