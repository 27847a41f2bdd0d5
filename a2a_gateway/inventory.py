"""Agents known to this node: registered, their card fetched, verified, pinned, rebuilt and signed.

    registry entry ─▶ fetch card ─▶ parse ─▶ verify by pinned key ─▶ origin ─▶ review ─▶ pin ─▶ Agent

- An `Agent` is a snapshot of facts; whether it may be called or its card shown is policy's to say,
  over ``state``, ``pin`` and ``signed``. A card that changed, or whose signature fails, is
  ``quarantined``: nothing of it is served, and the facts make every call a deny.
- First contact may pin a card only when the operator's pinned key signed it and its review found
  nothing (A2A-01, A2A-02); an unsigned card waits for `pins approve`.
- A pin is of a card at its ``card_url``: an operator who moves the agent there meets it anew.
- A card is looked at again after ``card_ttl_s``, inside the next request for the agent. An agent
  that cannot be reached keeps its last facts: silence changes nothing.
- Names are the node's: every agent is registered under one tenant (``home_tenant``), and
  ``tenants`` of its spec says whom it serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from joserfc.jwk import ECKey

from a2a_gateway import card as cards
from a2a_gateway.card import Card, Offer
from firewall.core.action import Resource
from firewall.core.bounds import CARD_BYTES
from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry, RegistryEntry, check_name
from firewall.net.address import Network
from firewall.net.dial import Dialler, Purpose
from firewall.wire import canonical
from firewall.wire.jwt import Key, keys_of

Review = Callable[[JSON], Sequence[Finding]]
Signed = Literal["verified", "none", "failed"]
PIN_KIND: Final = "card"
CARD_FETCH_S: Final = 5.0
RETRY_S: Final = 1.0
KEYS_PATH: Final = "/a2a/.well-known/jwks.json"
WELL_KNOWN: Final = "/.well-known/agent-card.json"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an operator says of an agent; the ``spec`` of its registry entry. Holds no secret.

    card_url: where its card stands; its origin is the only one we call, but for ``origins``.
    keys: a JWK Set of public keys, one of which must sign the card; None lets an unsigned card in,
        pinned by its digest after an explicit approval.
    tenants: whom it serves, ("*",) for all. public_card: our card of it is shown without sign-in.
    extensions: URIs of A2A extensions that may pass.
    """

    card_url: str
    keys: JSONObject | None = None
    network: Network = "public"
    trust: Literal["trusted", "untrusted"] = "untrusted"
    tenants: tuple[str, ...] = ("*",)
    origins: tuple[str, ...] = ()
    public_card: bool = False
    extensions: tuple[str, ...] = ()
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""

    @classmethod
    def from_json(cls, value: JSONObject) -> AgentSpec:
        """Return the spec of a registry entry; raises ConfigFault("agent_spec") naming the member."""
        known: dict[str, object] = {}
        for name, member in value.items():
            if name in _LISTS:
                if not isinstance(member, list) or not all(isinstance(item, str) for item in member):
                    raise _wrong(name)
                known[name] = tuple(str(item) for item in member)
            elif name in _STRINGS:
                if not isinstance(member, str):
                    raise _wrong(name)
                known[name] = member
            elif (name == "public_card" and isinstance(member, bool)) or (
                name == "keys" and isinstance(member, dict | None)
            ):
                known[name] = member
            else:
                raise _wrong(name)
        try:
            spec = cls(**known)  # type: ignore[arg-type]  # each member's type was checked above
            cards.origin(spec.card_url)
            spec.verifying_keys()
        except (TypeError, Malformed):
            raise _wrong("card_url or keys") from None
        if spec.network not in get_args(Network) or spec.trust not in ("trusted", "untrusted") or not spec.tenants:
            raise _wrong("network, trust or tenants")
        return spec

    def to_json(self) -> JSONObject:
        """Return the ``spec`` to register; the inverse of `from_json`."""
        out: JSONObject = {name: getattr(self, name) for name in sorted(_STRINGS)}
        out.update({name: list(getattr(self, name)) for name in sorted(_LISTS)})
        return {**out, "public_card": self.public_card, "keys": self.keys}

    def verifying_keys(self) -> dict[str, Key]:
        """Return the pinned keys by kid; raises Malformed("jwks_invalid")."""
        return keys_of(self.keys) if self.keys is not None else {}


_STRINGS: Final = frozenset({"card_url", "network", "trust", "ca_file", "client_cert", "client_key"})
_LISTS: Final = frozenset({"tenants", "origins", "extensions"})


def _wrong(member: str) -> ConfigFault:
    return ConfigFault("agent_spec", member, fix="see the A2A section of the configuration reference")


@dataclass(frozen=True, slots=True)
class CardKey:
    """The key that signs our cards: ES256, published at `KEYS_PATH`."""

    key: ECKey
    kid: str


@dataclass(frozen=True, slots=True)
class InventorySettings:
    """public_url: the bare origin clients see. The three URLs are the authorization server's.

    card_ttl_s, card_fetch_s: seconds. review_severity: a finding in card text from here on (0–100)
    keeps first contact from pinning it; agents' names hold spaces, which is no reason (20).
    """

    public_url: str
    authorization_url: str = ""
    token_url: str = ""
    metadata_url: str = ""
    device_grant: bool = False
    home_tenant: str = "default"
    card_ttl_s: float = 5.0
    card_fetch_s: float = CARD_FETCH_S
    review_severity: int = 40

    def resource(self, name: str) -> str:
        """Return the agent's resource URI: its URL here, and the audience of its tokens."""
        return f"{self.public_url}/a2a/{name}"

    def offer(self, name: str) -> Offer:
        """Return what our card of an agent says about us."""
        base = self.public_url
        return Offer(
            self.resource(name),
            scope_of(name),
            self.authorization_url or f"{base}/authorize",
            self.token_url or f"{base}/token",
            self.metadata_url or f"{base}/.well-known/oauth-authorization-server",
            f"{base}/device_authorization" if self.device_grant else "",
        )


def scope_of(name: str) -> str:
    """Return the OAuth scope that using an agent needs."""
    return f"{name}:send"


@dataclass(frozen=True, slots=True)
class Agent:
    """A snapshot. card, served: the verified card and ours, None where there is none to act on.

    problem: why it is not usable ("" when it is): card_changed, card_new, card_signature,
    card_unsigned, card_origin, card_interface, card_invalid, unreachable.
    resource, card_resource: what policy reads, encoded once per snapshot.
    """

    name: str
    spec: AgentSpec
    card: Card | None
    served: JSONObject | None
    etag: str
    problem: str
    resource: Resource
    card_resource: Resource


@dataclass(slots=True)
class _Seen:
    """What the last look at the card showed."""

    version: int
    spec: AgentSpec
    at_ns: int
    card: Card | None = None
    served: JSONObject | None = None
    digest: str = ""
    signed: Signed = "none"
    problem: str = "unreachable"
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    agent: Agent | None = None
    epoch: int = -1


class Inventory:
    """The agents of one worker. Raises StateUnavailable where the registry or the pins do not answer."""

    def __init__(
        self,
        *,
        registry: Registry,
        pins: Pins,
        dialler: Dialler,
        review: Review,
        clock: Clock,
        signing: CardKey,
        settings: InventorySettings,
    ) -> None:
        self.settings = settings
        self._registry = registry
        self._pins = pins
        self._dialler = dialler
        self._review = review
        self._clock = clock
        self._signing = signing
        self._entries: dict[str, RegistryEntry | None] = {}
        self._entries_epoch = -1
        self._seen: dict[str, _Seen] = {}

    def keys_document(self) -> JSONObject:
        """Return the JWK Set that verifies our cards."""
        public: JSONObject = {k: str(v) for k, v in self._signing.key.as_dict(private=False).items() if k != "kid"}
        return {"keys": [{**public, "kid": self._signing.kid, "use": "sig", "alg": "ES256"}]}

    def names(self) -> list[str]:
        """Return every registered agent's name."""
        return [entry.name for entry in self._registry.list(self.settings.home_tenant, "a2a")]

    def spec(self, name: str) -> AgentSpec | None:
        """Return what is registered under a name, or None; makes no request."""
        entry = self._entry(name)
        return AgentSpec.from_json(entry.spec) if entry is not None else None

    async def get(self, name: str) -> Agent | None:
        """Return the agent as it is now, looking at its card where that is due; None when unknown."""
        entry = self._entry(name)
        if entry is None:
            return None
        seen = self._seen.get(name)
        if seen is None or seen.version != entry.version:
            kept = seen if seen is not None and AgentSpec.from_json(entry.spec) == seen.spec else None
            seen = (
                replace(kept, version=entry.version, agent=None)
                if kept is not None
                else _Seen(entry.version, AgentSpec.from_json(entry.spec), -1)
            )
            self._seen[name] = seen
        if self._due(seen):
            async with seen.lock:
                if self._due(seen):
                    await self._look(name, seen)
        return self._snapshot(name, seen)

    async def refresh(self, name: str) -> Agent | None:
        """As `get`, looking at the card now."""
        if name in self._seen:
            self._seen[name].at_ns = -1
        return await self.get(name)

    # -- one look ---------------------------------------------------------------------------------------

    def _entry(self, name: str) -> RegistryEntry | None:
        epoch = self._pins.epoch()
        if epoch != self._entries_epoch:
            self._entries.clear()
            self._entries_epoch = epoch
        if name not in self._entries:
            try:
                check_name(name)
            except Malformed:
                return None
            found = self._registry.get(self.settings.home_tenant, "a2a", name)
            if found is None:
                return None  # never kept: names are the caller's, and would fill the table
            self._entries[name] = found
        return self._entries[name]

    def _due(self, seen: _Seen) -> bool:
        age_ns = self._clock.monotonic_ns() - seen.at_ns
        # An agent that was never reached (it starts beside us) is tried again soon.
        ttl_s = self.settings.card_ttl_s if seen.digest else min(self.settings.card_ttl_s, RETRY_S)
        return seen.at_ns < 0 or age_ns >= ttl_s * 1e9

    async def _look(self, name: str, seen: _Seen) -> None:
        try:
            fetched = await self._dialler.fetch(
                Purpose.AGENT_CARD,
                seen.spec.card_url,
                network=seen.spec.network,
                max_bytes=CARD_BYTES,
                timeout_s=self.settings.card_fetch_s,
                headers=((b"accept", b"application/json"),),
            )
        except UpstreamFault as fault:
            self._missed(seen, fault.code)
            return
        finally:
            seen.at_ns = self._clock.monotonic_ns()
        if fetched.status != 200:
            self._missed(seen, "unreachable")
            return
        seen.agent = None
        try:
            unchecked = cards.parse(fetched.body)
        except Malformed as error:
            self._failed(name, seen, error.code, "sha256:unreadable")
            return
        try:
            keys = seen.spec.verifying_keys()
            kid = cards.verify(unchecked, keys) if keys else ""
            origins = frozenset(cards.origin(one) for one in seen.spec.origins)
            card = cards.accept(unchecked, kid, card_url=seen.spec.card_url, origins=origins)
        except Malformed as error:
            self._failed(name, seen, error.code, unchecked.digest)
            return
        grave = self.settings.review_severity
        found = {finding.rule for finding in self._review(card.offered) if finding.severity >= grave}
        reasons = tuple(sorted(found))
        self._pins.observe(
            self.settings.home_tenant, name, PIN_KIND, seen.spec.card_url, card.digest, trust=bool(kid), reasons=reasons
        )
        if card.digest != seen.digest or seen.served is None:
            ours = cards.rebuild(card, self.settings.offer(name))
            jku = f"{self.settings.public_url}{KEYS_PATH}"
            seen.served = cards.sign(ours, self._signing.key, kid=self._signing.kid, jku=jku)
        seen.card, seen.digest, seen.problem = card, card.digest, ""
        seen.signed = "verified" if kid else "none"

    def _missed(self, seen: _Seen, code: str) -> None:
        """The card did not come. ``too_large`` is an answer, and a bad one; silence is not."""
        if code in ("too_large", "malformed"):
            seen.agent = None
            seen.card = seen.served = None
            seen.signed, seen.problem = "failed", "card_invalid"

    def _failed(self, name: str, seen: _Seen, code: str, digest: str) -> None:
        self._pins.observe(
            self.settings.home_tenant, name, PIN_KIND, seen.spec.card_url, digest, reasons=(f"a2a.{code}",)
        )
        seen.card = seen.served = None
        seen.digest, seen.signed, seen.problem = digest, "failed", code

    def _snapshot(self, name: str, seen: _Seen) -> Agent:
        epoch = self._pins.epoch()
        if seen.agent is not None and seen.epoch == epoch:
            return seen.agent
        home = self.settings.home_tenant
        state = self._registry.state(home, "a2a", name)
        pin = self._pins.status(home, name, PIN_KIND, seen.spec.card_url, seen.digest) if seen.digest else "new"
        problem = seen.problem or ("" if pin in ("approved", "warned") else f"card_{pin}")
        facts: dict[str, JSON] = {
            "server": name,
            "trust": seen.spec.trust,
            "network": seen.spec.network,
            "state": state,
            "tenants": list(seen.spec.tenants),
            "effect_class": "send",
            "pin": pin,
            "hash": seen.digest,
            "scope": scope_of(name),
            "signed": seen.signed,
        }
        usable = not problem and seen.served is not None
        etag = ""
        if usable and seen.served is not None:
            # Weak, over the unsigned card: ES256 signs anew each time, the content is the same.
            unsigned: JSONObject = {k: v for k, v in seen.served.items() if k != "signatures"}
            etag = f'W/"{canonical.digest(unsigned).removeprefix("sha256:")}"'
        seen.agent = Agent(
            name,
            seen.spec,
            seen.card if usable else None,
            seen.served if usable else None,
            etag,
            problem,
            Resource("a2a_agent", name, name, facts),
            Resource("a2a_card", f"{name}/card", name, facts),
        )
        seen.epoch = epoch
        return seen.agent
