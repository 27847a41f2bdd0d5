"""What strangers are refused at the front door: bounded for the whole worker; who proved who they are has every record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from firewall.admin.people import Typed, proved
from firewall.core.errors import AuditUnavailable, Malformed, StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.identity.opaque import digest
from firewall.identity.rfc8628.endpoint import GRANT_TYPE as DEVICE
from firewall.identity.settings import ClientSettings
from firewall.identity.throttle import Throttle, network_of
from firewall.net.runtime import FakeClock
from firewall.record import refused
from firewall.record.record import validate_record
from firewall.record.refused import PER_MINUTE, PER_NETWORK, StrangerLog
from tests.admin.rig import make_room
from tests.support.door import (
    CIMD_URL,
    GIT,
    ORIGIN,
    TIME,
    Browser,
    Door,
    authorize_query,
    callback_of,
    make_door,
    redeem,
    refresh,
    registered_clients,
)
from tests.support.idp import come_back, leave, make_stage

NETWORKS = 100  # of one /48
PROVED = ("svc-basic", "a-long-random-secret")


@dataclass
class Kept:
    """An audit log in a list."""

    records: list[JSONObject] = field(default_factory=list)
    full: bool = False

    def append(self, record: JSONObject) -> None:
        if self.full:
            raise AuditUnavailable("audit_write")
        validate_record(record)
        self.records.append(record)

    def named(self, event: str) -> list[JSONObject]:
        return [record for record in self.records if record["event"] == event]


@dataclass
class Room:
    """A door whose strangers' refusals go where a node's go."""

    kept: Kept = field(default_factory=Kept)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.log = StrangerLog(self.kept, self.clock, network_of)  # type: ignore[arg-type]
        self.door: Door = make_door(noted=self.log.note, device_grant=True, registration=True)


def from_network(door: Door, n: int) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=(f"2001:db8:0:{n:x}::7", 4000))
    return httpx2.AsyncClient(transport=transport, base_url=ORIGIN)


async def flood(door: Door) -> Counter[int]:
    """Ask for nonsense in every way that costs nothing, as a public client that everybody can name, from one /48."""
    answers: Counter[int] = Counter()
    code = {"grant_type": "authorization_code", "client_id": CIMD_URL, "code": "made-up", "code_verifier": "v" * 43}
    for n in range(NETWORKS):
        async with from_network(door, n) as http:
            for answer in (
                await http.post("/token", data=code),
                await http.post("/token", data={"grant_type": "client_credentials", "client_id": "nobody"}),
                await http.post("/par", data={"client_id": CIMD_URL}),
                await http.post("/device_authorization", data={"client_id": CIMD_URL, "resource": "x"}),
                await http.post("/register", json={"redirect_uris": "nowhere"}),
                await http.get("/authorize", params=authorize_query(client_id="https://nobody.example/client.json")),
                await http.get("/authorize", params=authorize_query(scope="nothing:ever")),
            ):
                answers[answer.status_code] += 1
    return answers


async def test_a_flood_from_many_networks_has_so_many_records_and_the_rest_is_counted_by_event() -> None:
    room = Room()
    answers = await flood(room.door)
    assert 500 not in answers
    assert 503 not in answers
    assert len(room.kept.records) == PER_MINUTE
    assert not any(event.endswith("refused") for event, _ in room.door.events)
    room.log.settle()
    (rest,) = room.kept.named("identity.strangers.refused")
    counts = rest["counts"]
    assert isinstance(counts, dict)
    assert set(counts) == {
        "identity.token.refused",
        "identity.pushed.refused",
        "identity.device.refused",
        "identity.client.refused",
        "identity.authorize.refused",
    }
    assert sum(int(str(n)) for n in counts.values()) == 7 * NETWORKS - PER_MINUTE
    assert "2001:db8" not in repr(room.kept.records)


async def test_twin_without_the_bound_the_flood_is_a_flood_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "PER_MINUTE", 10**9)
    unbound = Room()
    await flood(unbound.door)
    assert len(unbound.kept.records) == 7 * NETWORKS


async def test_one_network_leaves_records_for_the_others() -> None:
    room = Room()
    for _ in range(3 * PER_NETWORK):
        room.log.note("identity.token.refused", "2001:db8::1", {})
    assert len(room.kept.records) == PER_NETWORK
    async with from_network(room.door, 9) as http:
        await http.post("/token", data={"grant_type": "client_credentials", "client_id": "nobody"})
    assert room.kept.records[-1]["client_sha256"]


async def test_what_is_about_somebody_who_is_known_and_what_is_granted_has_every_record_in_a_flood() -> None:
    room = Room()
    await room.door.user()
    await flood(room.door)
    before = len(room.kept.records)
    async with room.door.http() as http:
        browser = Browser(http)
        sent = callback_of(await browser.approve(await browser.sign_in(await browser.open(authorize_query()))))
        token = (await redeem(http, sent["code"])).json()["refresh_token"]
        for _ in range(PER_NETWORK + 2):
            await refresh(http, token, resource=GIT)  # it shows whose it is
            await http.post("/token", data={"grant_type": "client_credentials", "resource": "x"}, auth=PROVED)
    assert len(room.door.named("identity.login")) == 1
    assert len(room.door.named("identity.token.issued")) == 1
    told = room.door.named("identity.token.refused")
    assert sum("sub" in one for one in told) == PER_NETWORK + 2
    assert sum(one.get("client_id") == "svc-basic" for one in told) == PER_NETWORK + 2
    assert len(room.kept.records) == before


async def test_guesses_of_a_password_are_bounded_too() -> None:
    room = Room()
    await room.door.user()
    async with room.door.http() as http:
        browser = Browser(http)
        await browser.sign_in(await browser.open(authorize_query()), password="wrong")
    (failed,) = room.kept.named("identity.login.failed")
    assert failed["sub"]
    assert room.door.named("identity.login.failed") == []


async def test_a_full_record_refuses_strangers_all_the_same() -> None:
    room = Room(Kept(full=True))
    async with room.door.http() as http:
        answer = await http.post("/token", data={"grant_type": "client_credentials", "client_id": "nobody"})
    assert answer.status_code == 401


TV = ClientSettings("tv", "Television", grant_types=(DEVICE, "refresh_token"), tenant="")
REGISTERED = {"redirect_uris": ["https://app.example/cb"], "token_endpoint_auth_method": "none"}


def beginners(kept: Kept, clock: FakeClock) -> tuple[StrangerLog, Door]:
    """Return a door where strangers may begin whatever there is to begin, and its log."""
    log = StrangerLog(kept, clock, network_of)  # type: ignore[arg-type]
    clients = (*registered_clients(), TV)
    return log, make_stage(noted=log.note, device_grant=True, registration=True, clients=clients).door


async def begin_everywhere(door: Door) -> Counter[str]:
    """Begin, well-formed, all that costs nothing, from as many networks of one /48; return what was answered."""
    told: Counter[str] = Counter()
    for n in range(NETWORKS):
        async with from_network(door, n) as http:
            form = {"client_id": "tv", "resource": TIME, "scope": "time:read"}
            told[f"device {(await http.post('/device_authorization', data=form)).status_code}"] += 1
            told[f"register {(await http.post('/register', json=REGISTERED)).status_code}"] += 1
            browser = Browser(http)
            away = await leave(browser, await browser.open(authorize_query()))
            told[f"idp {away.status_code}"] += 1
            state = parse_qs(urlsplit(away.headers["location"]).query)["state"][0]
            told[f"back {(await come_back(browser, f'error=access_denied&state={state}')).status_code}"] += 1
    return told


async def test_what_strangers_begin_has_so_many_records_in_all_and_the_rest_is_counted_by_event() -> None:
    kept = Kept()
    log, door = beginners(kept, FakeClock())
    told = await begin_everywhere(door)
    assert told == {"device 200": NETWORKS, "register 201": NETWORKS, "idp 303": NETWORKS, "back 403": NETWORKS}
    events = Counter(str(record["event"]) for record in kept.records)
    begun = {event: n for event, n in events.items() if event in refused.BEGINNINGS}
    assert set(begun) == refused.BEGINNINGS
    assert sum(begun.values()) == PER_MINUTE
    assert events["identity.idp.failed"] == PER_MINUTE  # what they began hides nothing of what they were refused
    assert door.events == []  # nothing else was written, by another way
    log.settle()
    (left,) = kept.named("identity.strangers.begun")
    counts = left["counts"]
    assert isinstance(counts, dict)
    assert counts == {event: NETWORKS - begun[event] for event in sorted(refused.BEGINNINGS)}
    (rest,) = kept.named("identity.strangers.refused")
    assert rest["counts"] == {"identity.idp.failed": NETWORKS - PER_MINUTE}


async def test_twin_without_the_bound_what_strangers_begin_grows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "PER_MINUTE", 10**9)
    kept = Kept()
    await begin_everywhere(beginners(kept, FakeClock())[1])
    assert len(kept.records) == 4 * NETWORKS


async def test_a_client_that_proved_who_it_is_has_a_record_of_each_device_it_begins() -> None:
    kept = Kept()
    proved = ClientSettings(
        "svc-tv",
        "Wall",
        auth_method="client_secret_basic",
        grant_types=(DEVICE,),
        tenant="",
        secret_sha256=digest(PROVED[1]),
    )
    log = StrangerLog(kept, FakeClock(), network_of)  # type: ignore[arg-type]
    door = make_door(noted=log.note, device_grant=True, clients=(proved, TV))
    async with door.http() as http:
        for _ in range(PER_NETWORK + 2):
            form = {"resource": TIME, "scope": "time:read"}
            answer = await http.post("/device_authorization", data=form, auth=("svc-tv", PROVED[1]))
            assert answer.status_code == 200, answer.text
    assert len(door.named("identity.device.asked")) == PER_NETWORK + 2
    assert kept.records == []


async def test_our_own_failures_are_bounded_however_many_requests_meet_them(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()

    def fail(*_args: object, **_more: object) -> None:
        raise StateUnavailable("busy")

    monkeypatch.setattr("firewall.state.memory.MemoryCollection.add", fail)
    for n in range(NETWORKS):
        async with from_network(room.door, n) as http:
            assert (await http.post("/token", data={"grant_type": "x"})).status_code == 503
    assert len(room.kept.named("identity.failure")) == PER_MINUTE
    room.log.settle()
    (rest,) = room.kept.named("identity.strangers.refused")
    assert rest["counts"] == {"identity.failure": NETWORKS - PER_MINUTE}


async def test_guesses_at_the_console_are_bounded_in_all_and_its_twin_is_not(tmp_path: Path) -> None:
    for bounded, records in ((True, PER_MINUTE), (False, NETWORKS)):
        kept = Kept()
        log = StrangerLog(kept, FakeClock(), network_of)  # type: ignore[arg-type]
        noted = log.note if bounded else None
        parts = make_room(tmp_path / str(bounded), make_door(), noted=noted).parts
        parts = dataclasses.replace(parts, audit=kept)  # type: ignore[arg-type]
        throttle = Throttle(parts.store, parts.clock)
        for n in range(NETWORKS):
            with pytest.raises(Malformed, match="sign_in_failed"):
                await proved(parts, throttle, Typed("root", "guess"), f"2001:db8:0:{n:x}::7")
        assert len(kept.named("admin.sign_in.refused")) == records


async def test_answers_of_a_provider_that_no_browser_asked_for_are_bounded() -> None:
    room = Room()
    door = make_stage(noted=room.log.note).door
    async with from_network(door, 1) as http:
        for _ in range(PER_NETWORK + 5):
            assert (await http.get("/callback/corp", params={"state": "made-up", "code": "made-up"})).status_code == 403
    assert [one["code"] for one in room.kept.named("identity.idp.failed")] == ["idp_leg"] * PER_NETWORK
    assert door.named("identity.idp.failed") == []
