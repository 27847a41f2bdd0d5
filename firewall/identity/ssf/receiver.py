"""The receiver: takes verified events durably, and does what they say, on whichever worker comes first.

    push or poll ──▶ parse ──▶ claims ──▶ signature ──▶ inbox ──▶ acknowledged
                                                           └──▶ whose? ──▶ effects ──▶ recorded ──▶ burnt

A key that has to be fetched first keeps no transmitter waiting: its event is kept unverified, and has no effect
before its signature held. While nobody can tell whether it holds, the event waits, for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.oidc.provider_sessions import ProviderSessions
from firewall.identity.people.links import Links
from firewall.identity.people.users import Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record
from firewall.identity.ssf import event as sets
from firewall.identity.ssf.effects import effect_of, short_name
from firewall.identity.ssf.event import InvalidSet, SecurityEvent
from firewall.identity.ssf.health import Heard, StreamHealth
from firewall.identity.ssf.inbox import Inbox, Waiting, key_of
from firewall.identity.ssf.keys import KeysAway, TransmitterKeys
from firewall.identity.ssf.settings import Transmitter
from firewall.identity.ssf.subjects import Meant, Subjects
from firewall.identity.standing import Standing
from firewall.identity.throttle import NODE
from firewall.wire import jwt

KEY_WAIT_S: Final = 0.5  # for a key that is not at hand; the acknowledgement is due within a second
LOOK_EVERY_S: Final = 1.0  # for what another worker left behind
ALARM_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReceiverParts:
    """What the receiver works with. on_fault: told a code and the name of a stream that went silent or was paused."""

    store: Store
    clock: Clock
    users: Users
    links: Links
    standing: Standing
    fetcher: ProviderFetcher
    record: Record
    on_fault: Callable[[str, str], None] = lambda _code, _detail: None


class Receiver:
    """Takes and does. One per worker; the inbox is shared."""

    def __init__(self, transmitters: Sequence[Transmitter], parts: ReceiverParts) -> None:
        self.transmitters: Mapping[str, Transmitter] = {t.name: t for t in transmitters}
        self._parts = parts
        self._keys = {t.name: TransmitterKeys(t, parts.fetcher, parts.clock) for t in transmitters}
        self._subjects = Subjects(parts.users, parts.links, ProviderSessions(parts.store, parts.clock))
        self.inbox = Inbox(parts.store, parts.clock)
        self.health = StreamHealth(parts.store, parts.clock)
        self._wake = asyncio.Event()
        self._alarmed: set[str] = set()

    async def take(self, transmitter: Transmitter, token: bytes, *, expected_jti: str = "") -> str:
        """Keep a SET durably and return its ``jti``; it is acknowledged after that, and done by `run`.

        expected_jti: under which id a poll delivered it. Raises InvalidSet, StateUnavailable.
        """
        try:
            unchecked = sets.parse(token)
            event = sets.check(unchecked, transmitter, self._now_s())
            if expected_jti and event.jti != expected_jti:
                raise InvalidSet("invalid_request", "jti of the delivery")
            verified = await self._verified(transmitter, unchecked)
        except InvalidSet as error:
            self._refused(transmitter, error.err, error.detail)
            raise
        fresh = self.inbox.keep(transmitter.tenant, transmitter.name, event.jti, token, verified=verified)
        self.health.heard(transmitter)
        if fresh:
            self._wake.set()
        return event.jti

    async def _verified(self, transmitter: Transmitter, unchecked: jwt.UncheckedJWT) -> bool:
        """Return whether the signature held; False where its key takes too long. Raises InvalidSet when it did not."""
        keys = self._keys[transmitter.name]
        key = keys.at_hand(unchecked.kid)
        if key is None:
            try:
                async with asyncio.timeout(KEY_WAIT_S):
                    key = await keys.find(unchecked.kid)
            except (TimeoutError, KeysAway):
                return False
        sets.verify(unchecked, key)
        return True

    # -- doing -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what waits, now and whenever something comes; runs until cancelled."""
        for transmitter in self.transmitters.values():
            self.health.begin(transmitter)
        next_alarm_us = 0
        while True:
            try:
                while await self.work():
                    pass
                if self._parts.clock.now_us() >= next_alarm_us:
                    self.alarm()
                    next_alarm_us = self._parts.clock.now_us() + int(ALARM_EVERY_S * SECOND_US)
            except Exception as error:  # noqa: BLE001  it goes on waiting, and is tried again
                self._parts.on_fault(
                    "signals", error.code if isinstance(error, BartizanError) else type(error).__name__
                )
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def work(self) -> int:
        """Do everything that waits and that no other worker holds; return how many. Raises StateUnavailable."""
        done = 0
        failed: Exception | None = None
        away: set[str] = set()
        for tenant in {t.tenant for t in self.transmitters.values()}:
            for one in self.inbox.waiting(tenant):
                if one.transmitter in away and not one.verified and not self.inbox.is_old(one):
                    continue  # one slow host is waited for once a look
                if not self.inbox.claim(tenant, one.key):
                    continue
                try:
                    await self._do(one)
                    done += 1
                except KeysAway:
                    away.add(one.transmitter)
                    self.inbox.release(tenant, one.key)
                except Exception as error:  # noqa: BLE001  raised below: the others need not wait for it
                    self.inbox.release(tenant, one.key)
                    failed = error
                except BaseException:
                    self.inbox.release(tenant, one.key)
                    raise
        if failed is not None:
            raise failed
        return done

    async def _do(self, one: Waiting) -> None:
        transmitter = self.transmitters.get(one.transmitter)
        if transmitter is None:  # no longer configured: nobody vouches for it
            self.inbox.finish(one.tenant, one.key, remember_s=3600)
            return
        unchecked = sets.parse(one.token)
        # Its age was judged when it came; how long it waited here is not the transmitter's fault.
        event = self._read(transmitter, unchecked)
        held = ""
        try:
            if not one.verified:
                if not await self._verified(transmitter, unchecked):
                    raise KeysAway("keys of a transmitter")
            held = key_of(transmitter.name, event.jti)
            if one.verified or not self.inbox.is_done(one.tenant, held):
                self._apply(transmitter, event)
        except KeysAway:
            if not self.inbox.is_old(one):
                raise
            self._refused(transmitter, "invalid_key", "away")
        except InvalidSet as error:
            self._refused(transmitter, error.err, error.detail)
        except Malformed as error:  # it will never be done: what waits behind it must not wait with it
            self._refused(transmitter, "invalid_request", error.code)
        self.inbox.finish(one.tenant, one.key, remember_s=2 * transmitter.window_s + 3600, held=held)

    def _refused(self, transmitter: Transmitter, code: str, detail: str) -> None:
        facts: JSONObject = {"transmitter": transmitter.name, "code": code, "detail": detail}
        self._parts.record("identity.signal.refused", facts)

    def _read(self, transmitter: Transmitter, unchecked: jwt.UncheckedJWT) -> SecurityEvent:
        issued = unchecked.claims.get("iat")
        return sets.check(unchecked, transmitter, issued if isinstance(issued, int) else self._now_s())

    def _apply(self, transmitter: Transmitter, event: SecurityEvent) -> None:
        tenant, users = transmitter.tenant, self._parts.users
        for uri, payload in event.events.items():
            effect = effect_of(uri, payload)
            meant = self._subjects.find(transmitter, event.subject) if effect == "end" else Meant()
            if effect == "stream":
                self._stream(transmitter, payload)
            people: list[JSON] = list(meant.accounts)
            # Recorded first: what cannot be recorded waits, and is done when it can be.
            self._parts.record(
                "identity.signal.received",
                {
                    "tenant": tenant,
                    "transmitter": transmitter.name,
                    "signal": short_name(uri),
                    "effect": effect,
                    "jti": key_of(transmitter.name, event.jti)[:16],
                    "subjects": people,
                },
            )
            for name in meant.names:
                self._parts.standing.end(NODE, name)
            for subject in meant.accounts:
                users.end(tenant, subject, reason=f"signal_{short_name(uri)}")

    def _stream(self, transmitter: Transmitter, payload: JSONObject) -> None:
        status = payload.get("status")
        told = status if status in ("enabled", "paused", "disabled") else "unknown"
        self.health.heard(transmitter, str(told))
        if told != "enabled":
            self._parts.on_fault("signals_stream", f"{transmitter.name}: {told}")

    # -- alarms ----------------------------------------------------------------------------------------

    def alarm(self) -> list[Heard]:
        """Tell, once each time, which streams have fallen silent; return how all do."""
        streams = self.health.of(self.transmitters.values())
        for one in streams:
            if one.silent and one.name not in self._alarmed:
                self._alarmed.add(one.name)
                self._parts.record("identity.signal.silent", {"transmitter": one.name, "last_s": one.last_s})
                self._parts.on_fault("signals_silent", one.name)
            elif not one.silent:
                self._alarmed.discard(one.name)
        return streams

    def _now_s(self) -> int:
        return self._parts.clock.now_us() // SECOND_US
