"""Security events: which are taken, from whom, once, and what ends by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson
import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import AuditUnavailable, ConfigFault, StateUnavailable, Unauthenticated, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity import standing
from firewall.identity.people.users import User
from firewall.identity.ssf import inbox as inbox_module
from firewall.identity.ssf import push as push_module
from firewall.identity.ssf import receiver as receiver_module
from firewall.identity.ssf.build import Signals, build
from firewall.identity.ssf.effects import CAEP, EFFECTS, SSF
from firewall.identity.ssf.poll import Poller
from firewall.identity.ssf.settings import Transmitter
from firewall.net.dial import Fetched, Purpose
from firewall.wire import jwt
from tests.support.door import ORIGIN, Browser, Door, make_door, public_jwks, redeem, refresh
from tests.support.idp import code_of, corp, make_stage

ISSUER = "https://idp.acme.example"
SECRET = "the-secret-of-the-stream"
PATH = "/ssf/events"
KEY = ECKey.generate_key("P-256", private=True)
OTHER_KEY = ECKey.generate_key("P-256", private=True)
REVOKED = f"{CAEP}session-revoked"
ADA: JSONObject = {"format": "iss_sub", "iss": ISSUER, "sub": "00u1"}


@dataclass
class Stream:
    """A front door that listens to one transmitter, and the transmitter's own hand."""

    door: Door
    signals: Signals
    transmitter: Transmitter
    ada: User
    faults: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def claims(self, uri: str = REVOKED, payload: JSON = None, **changes: JSON) -> JSONObject:
        self.count += 1
        now_s = self.door.clock.now_us() // 1_000_000
        given: JSONObject = {
            "iss": ISSUER,
            "aud": ORIGIN,
            "jti": f"event-{self.count}",
            "iat": now_s,
            "sub_id": ADA,
            "events": {uri: {"event_timestamp": now_s} if payload is None else payload},
            **changes,
        }
        return {k: v for k, v in given.items() if v != "-"}

    def sign(self, claims: JSONObject, *, key: ECKey = KEY, typ: str = "secevent+jwt", kid: str = "c1") -> bytes:
        return jwt.sign(claims, key, alg="ES256", typ=typ, kid=kid).encode()

    async def push(self, token: bytes, *, secret: str = SECRET, **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/secevent+jwt", "authorization": f"Bearer {secret}", **headers}
        async with self.door.http() as http:
            return await http.post(PATH, content=token, headers={k: v for k, v in sent.items() if v})

    async def tell(self, uri: str = REVOKED, payload: JSON = None, **changes: JSON) -> None:
        """Push an event that must be taken, and have it done."""
        answer = await self.push(self.sign(self.claims(uri, payload, **changes)))
        assert answer.status_code == 202, answer.text
        await self.signals.receiver.work()

    async def token(self) -> str:
        """Return an access token of Ada's, verified and cached once."""
        async with self.door.http() as http:
            code = (await Browser(http).code())["code"]
            token = str((await redeem(http, code)).json()["access_token"])
        self.door.verified(token)
        return token

    def lives(self, token: str) -> bool:
        try:
            self.door.verified(token)
        except Unauthenticated:
            return False
        return True


async def make_stream(
    secret: Callable[[str], str] = lambda source: {"env:PUSH": SECRET, "env:POLL": "poll-secret-0123456"}[source],
    **changes: Any,
) -> Stream:
    door = make_door()
    ada = await door.user("ada")
    door.identity.links.link("acme", ISSUER, "00u1", ada.subject)
    values: dict[str, Any] = {
        "name": "idp",
        "issuer": ISSUER,
        "audience": ORIGIN,
        "tenant": "acme",
        "jwks": public_jwks(KEY),
        "push_secret": "env:PUSH",
        **changes,
    }
    transmitter = Transmitter(**values)
    faults: list[tuple[str, str]] = []
    signals = build(
        (transmitter,),
        users=door.identity.users,
        links=door.identity.links,
        standing=door.identity.grants.standing,
        store=door.store,
        clock=door.clock,
        fetcher=door.fetcher,
        secret=secret,
        record=door.record,
        on_fault=lambda code, detail: faults.append((code, detail)),
    )
    door.identity.front_door.mount(signals.routes)
    return Stream(door, signals, transmitter, ada, faults)


# -- effects ----------------------------------------------------------------------------------------------------


async def test_a_revoked_session_ends_tokens_grants_and_sessions() -> None:
    stream = await make_stream()
    async with stream.door.http() as http:
        browser = Browser(http)
        code = (await browser.code())["code"]
        issued = (await redeem(http, code)).json()
        assert stream.lives(issued["access_token"])
        await stream.tell()
        assert not stream.lives(issued["access_token"])
        assert (await refresh(http, issued["refresh_token"])).status_code == 400
        assert 'name="password"' in (await browser.get("/account/grants")).text  # signed in no more
    (record,) = stream.door.named("identity.signal.received")
    assert (record["signal"], record["effect"], record["subjects"]) == ("session-revoked", "end", [stream.ada.subject])


async def test_another_persons_token_lives_on() -> None:
    """The twin of the test above: the subject is what decides."""
    stream = await make_stream()
    token = await stream.token()
    await stream.tell(sub_id={"format": "iss_sub", "iss": ISSUER, "sub": "00u2"})
    assert stream.lives(token)


@pytest.mark.parametrize(
    ("event", "payload", "ends"),
    [
        ("session-revoked", {}, True),
        ("token-claims-change", {"claims": {"role": "none"}}, True),
        ("credential-change", {"change_type": "revoke", "credential_type": "password"}, True),
        ("credential-change", {"change_type": "update"}, True),
        ("credential-change", {"change_type": "delete"}, True),
        ("credential-change", {"change_type": "create"}, False),
        ("credential-change", {}, True),
        ("assurance-level-change", {"change_direction": "decrease", "current_level": "nist-aal1"}, True),
        ("assurance-level-change", {"current_level": "nist-aal1"}, True),
        ("assurance-level-change", {"change_direction": "increase"}, False),
        ("device-compliance-change", {"current_status": "not-compliant"}, True),
        ("device-compliance-change", {"current_status": "compliant"}, False),
        ("device-compliance-change", {"current_status": ["compliant"]}, True),
        ("risk-level-change", {"current_level": "HIGH"}, True),
        ("risk-level-change", {"current_level": "MEDIUM"}, True),
        ("risk-level-change", {"current_level": "LOW"}, False),
        ("risk-level-change", {"current_level": 0}, True),
        ("session-established", {}, False),
        ("session-presented", {}, False),
        ("nobody-knows-this", {}, False),
    ],
)
async def test_an_event_does_what_its_type_says_and_in_doubt_the_worse(
    event: str, payload: JSONObject, ends: bool
) -> None:
    stream = await make_stream()
    token = await stream.token()
    await stream.tell(CAEP + event, payload)
    assert stream.lives(token) != ends


def test_every_event_of_caep_has_an_effect() -> None:
    known = {uri.removeprefix(CAEP) for uri in EFFECTS if uri.startswith(CAEP)}
    assert known == {
        "session-revoked",
        "token-claims-change",
        "credential-change",
        "assurance-level-change",
        "device-compliance-change",
        "session-established",
        "session-presented",
        "risk-level-change",
    }


# -- whom it is about ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        (ADA, True),
        ({"format": "opaque", "id": "00u1"}, True),
        ({"format": "aliases", "identifiers": [{"format": "email", "email": "x@y.example"}, ADA]}, True),
        ({"format": "complex", "user": ADA, "session": {"format": "opaque", "id": "s1"}}, True),
        ({"format": "complex", "user": {"format": "opaque", "id": "00u1"}}, True),
        ({"format": "complex", "session": {"format": "opaque", "id": "00u1"}}, False),
        ({"format": "complex", "user": {"format": "complex", "user": ADA}}, False),
        ({"format": "iss_sub", "iss": "https://other.example", "sub": "00u1"}, False),
        ({"format": "iss_sub", "iss": ISSUER, "sub": "00U1"}, False),
        ({"format": "iss_sub", "iss": ISSUER}, False),
        ({"format": "email", "email": "ada"}, False),
        ({"format": "uri", "uri": "00u1"}, False),
        ({"format": "opaque", "id": ["00u1"]}, False),
        ({"format": "aliases", "identifiers": ADA}, False),
    ],
)
async def test_a_subject_leads_to_a_person_by_link_and_by_nothing_else(subject: JSONObject, found: bool) -> None:
    stream = await make_stream()
    token = await stream.token()
    await stream.tell(sub_id=subject)
    assert stream.lives(token) != found


async def test_an_address_names_a_person_only_where_an_operator_said_so() -> None:
    for email in (False, True):
        stream = await make_stream(email=email)
        await stream.door.user("ada@acme.example")
        mail = stream.door.identity.users._find("ada@acme.example")
        assert mail is not None
        await stream.tell(sub_id={"format": "email", "email": "Ada@Acme.example"})
        (record,) = stream.door.named("identity.signal.received")
        assert record["subjects"] == ([mail[0].subject] if email else [])


async def test_accounts_may_be_linked_under_the_issuer_of_their_sign_in() -> None:
    stream = await make_stream(issuer="https://ssf.acme.example", accounts=ISSUER)
    token = await stream.token()
    await stream.tell(iss="https://ssf.acme.example")
    assert not stream.lives(token)


async def test_a_person_of_another_tenant_is_nobody() -> None:
    stream = await make_stream(tenant="other")
    token = await stream.token()
    await stream.tell()
    assert stream.lives(token)


@pytest.mark.parametrize(
    "subject",
    [
        {"format": "opaque", "id": "sid-1"},
        {"format": "complex", "session": {"format": "opaque", "id": "sid-1"}},
    ],
)
async def test_a_providers_session_means_who_signed_in_with_it(subject: JSONObject) -> None:
    stage = make_stage(corp(issuer=ISSUER))
    stage.idp.person = {**stage.idp.person, "sid": "sid-1"}
    signals = build(
        (Transmitter("idp", ISSUER, ORIGIN, tenant="acme", jwks=public_jwks(KEY), push_secret="env:PUSH"),),
        users=stage.door.identity.users,
        links=stage.door.identity.links,
        standing=stage.door.identity.grants.standing,
        store=stage.door.store,
        clock=stage.door.clock,
        fetcher=stage.door.fetcher,
        secret=lambda _source: SECRET,
        record=stage.door.record,
    )
    stage.door.identity.front_door.mount(signals.routes)
    (transmitter,) = signals.receiver.transmitters.values()
    async with stage.door.http() as http:
        code = (await code_of(Browser(http), stage))["code"]
        token = str((await redeem(http, code)).json()["access_token"])
    (ada,) = stage.door.identity.users.list("acme")
    stream = Stream(stage.door, signals, transmitter, ada)
    assert stream.lives(token)
    await stream.tell(sub_id={**subject, **({"id": "sid-2"} if "id" in subject else {"session": None})})
    assert stream.lives(token)
    await stream.tell(sub_id=subject)
    assert not stream.lives(token)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (ADA, standing.person(ISSUER, "00u1")),
        ({"format": "opaque", "id": "a stranger"}, standing.person(ISSUER, "a stranger")),
        ({"format": "complex", "session": {"format": "opaque", "id": "s1"}}, standing.session("s1", ISSUER)),
    ],
)
async def test_tokens_of_the_issuer_itself_end_by_the_name_that_they_carry(subject: JSONObject, name: str) -> None:
    """Where an issuer's tokens are taken as they are, its people need no account of ours."""
    stream = await make_stream()
    ours = stream.door.identity.grants.standing
    now_s = stream.door.clock.now_us() // 1_000_000
    assert not ours.ended("acme", [name], now_s)
    await stream.tell(sub_id=subject)
    assert ours.ended("acme", [name], now_s)
    assert not ours.ended("acme", [name], now_s + 1)
    assert not ours.ended("acme", [standing.person(ISSUER, "00u2"), standing.session("s2", ISSUER)], now_s)


# -- which events are taken ------------------------------------------------------------------------------------------


REFUSED: list[tuple[str, JSONObject, str]] = [
    ("an issuer that is not its transmitter's", {"iss": "https://idp.acme.example/"}, "invalid_issuer"),
    ("no issuer", {"iss": "-"}, "invalid_issuer"),
    ("another audience", {"aud": "https://other.example"}, "invalid_audience"),
    ("an audience that only begins like ours", {"aud": f"{ORIGIN}/"}, "invalid_audience"),
    ("a list without us", {"aud": ["https://other.example"]}, "invalid_audience"),
    ("too many audiences", {"aud": [ORIGIN] * 17}, "invalid_audience"),
    ("no audience", {"aud": "-"}, "invalid_audience"),
    ("no id", {"jti": "-"}, "invalid_request"),
    ("an empty id", {"jti": ""}, "invalid_request"),
    ("an id too long", {"jti": "x" * 257}, "invalid_request"),
    ("no time", {"iat": "-"}, "invalid_request"),
    ("a time that is text", {"iat": "1795000000"}, "invalid_request"),
    ("a time that is true", {"iat": True}, "invalid_request"),
    ("a subject of an ID token", {"sub": "00u1"}, "invalid_request"),
    ("an end of a token", {"exp": 4_000_000_000}, "invalid_request"),
    ("no event", {"events": {}}, "invalid_request"),
    ("events as a list", {"events": [REVOKED]}, "invalid_request"),
    ("an event without its object", {"events": {REVOKED: True}}, "invalid_request"),
    ("nine events", {"events": {f"{REVOKED}{n}": {} for n in range(9)}}, "invalid_request"),
    ("no subject", {"sub_id": "-"}, "invalid_request"),
    ("a subject without a format", {"sub_id": {"iss": ISSUER, "sub": "00u1"}}, "invalid_request"),
]


@pytest.mark.parametrize(("changes", "err"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_an_event_that_breaks_a_rule_is_refused_by_its_code(changes: JSONObject, err: str) -> None:
    stream = await make_stream()
    token = await stream.token()
    answer = await stream.push(stream.sign(stream.claims(**changes)))
    assert (answer.status_code, answer.json()["err"]) == (400, err)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-language"] == "en"
    await stream.signals.receiver.work()
    assert stream.lives(token)
    assert stream.door.named("identity.signal.refused")[-1]["code"] == err


async def test_the_same_event_without_a_fault_is_taken() -> None:
    """The twin of the table above: its form is right, so what it breaks is what refuses."""
    stream = await make_stream()
    token = await stream.token()
    await stream.tell(aud=["https://other.example", ORIGIN])
    assert not stream.lives(token)


@pytest.mark.parametrize(("age_s", "status"), [(3601, 400), (3599, 202), (-61, 400), (-59, 202)])
async def test_an_event_is_taken_within_its_window(age_s: int, status: int) -> None:
    stream = await make_stream()
    now_s = stream.door.clock.now_us() // 1_000_000
    assert (await stream.push(stream.sign(stream.claims(iat=now_s - age_s)))).status_code == status


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "", "logout+jwt", "dpop+jwt", "secevent"])
async def test_no_other_kind_of_token_passes_for_an_event(typ: str) -> None:
    stream = await make_stream()
    answer = await stream.push(stream.sign(stream.claims(), typ=typ))
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_request")
    full = await stream.push(stream.sign(stream.claims(), typ="application/secevent+jwt"))
    assert full.status_code == 202  # the same media type, spelled out


async def test_a_signature_of_another_key_or_under_another_id_is_refused() -> None:
    stream = await make_stream()
    for token in (
        stream.sign(stream.claims(), key=OTHER_KEY),
        stream.sign(stream.claims(), kid="../../c1"),
        stream.sign(stream.claims())[:-6] + b"AAAAAA",
    ):
        answer = await stream.push(token)
        assert (answer.status_code, answer.json()["err"]) in ((400, "invalid_key"), (400, "invalid_request"))
    assert list(stream.signals.receiver.inbox.waiting("acme")) == []


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "ES512", ""])
async def test_rs_01_an_algorithm_that_is_not_on_the_list_is_refused_before_any_key(alg: str) -> None:
    from base64 import urlsafe_b64encode

    def part(value: object) -> bytes:
        return urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=")

    stream = await make_stream()
    token = b".".join((part({"alg": alg, "typ": "secevent+jwt", "kid": "c1"}), part(stream.claims()), b"c2lnbmF0dXJl"))
    answer = await stream.push(token)
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_key")


@pytest.mark.parametrize("body", [b"", b"x", b"a.b", b"a.b.c", b"\xff\xfe", b"." * 10, b"A" * 40_000])
async def test_what_is_no_token_at_all_is_refused(body: bytes) -> None:
    stream = await make_stream()
    answer = await stream.push(body)
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_request")


# -- who may push ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", f"Basic {SECRET}", f"{SECRET}", "Bearer \xe9"])
async def test_op_07_without_the_secret_of_a_transmitter_nothing_is_read(header: str) -> None:
    stream = await make_stream()
    async with stream.door.http() as http:
        headers: dict[str, Any] = {"content-type": "application/secevent+jwt"}
        if header:
            headers["authorization"] = header.encode("latin-1")
        answer = await http.post(PATH, content=stream.sign(stream.claims()), headers=headers)
    assert (answer.status_code, answer.json()["err"]) == (401, "authentication_failed")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert list(stream.signals.receiver.inbox.waiting("acme")) == []


@pytest.mark.parametrize("control", ["on", "off"])
async def test_op_07_an_event_with_a_guessed_secret(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the control off whoever reaches the endpoint hands in what somebody else was sent."""
    stream = await make_stream()
    if control == "off":
        monkeypatch.setattr(push_module.hmac, "compare_digest", lambda *_: True)
    answer = await stream.push(stream.sign(stream.claims()), secret="a guess of some length")
    assert answer.status_code == (202 if control == "off" else 401)


async def test_strangers_are_counted() -> None:
    stream = await make_stream()
    statuses = [(await stream.push(b"x", secret=f"guess-{n}")).status_code for n in range(62)]
    assert statuses[:60] == [401] * 60
    assert statuses[-1] == 429
    assert (await stream.push(stream.sign(stream.claims()))).status_code == 202  # who is known is not held up


@pytest.mark.parametrize("secret", ["", "short"])
async def test_a_secret_that_is_missing_or_weak_opens_nothing(secret: str) -> None:
    def read(_source: str) -> str:
        if not secret:
            raise UpstreamFault("credentials")
        return secret

    stream = await make_stream(secret=read)
    assert (await stream.push(stream.sign(stream.claims()), secret=secret or "x")).status_code == 401


async def test_the_secret_of_one_transmitter_carries_no_event_of_another() -> None:
    stream = await make_stream()
    answer = await stream.push(stream.sign(stream.claims(iss="https://second.example")))
    assert answer.json()["err"] == "invalid_issuer"


async def test_another_media_type_or_method_is_refused() -> None:
    stream = await make_stream()
    answer = await stream.push(stream.sign(stream.claims()), **{"content-type": "application/json"})
    assert answer.status_code == 415
    async with stream.door.http() as http:
        assert (await http.get(PATH)).status_code == 405


# -- once, durably ----------------------------------------------------------------------------------------------------


async def test_an_event_is_done_once_however_often_it_comes() -> None:
    stream = await make_stream()
    event = stream.sign(stream.claims())
    assert (await stream.push(event)).status_code == 202
    assert (await stream.push(event)).status_code == 202  # waiting already
    await stream.signals.receiver.work()
    token = await stream.token()  # she signs in again
    assert (await stream.push(event)).status_code == 202  # done already
    await stream.signals.receiver.work()
    assert stream.lives(token)
    assert len(stream.door.named("identity.signal.received")) == 1


async def test_the_same_id_of_another_transmitter_is_another_event() -> None:
    assert inbox_module.key_of("a", "1") != inbox_module.key_of("b", "1")


async def test_what_was_acknowledged_survives_a_worker_that_dies() -> None:
    stream = await make_stream()
    token = await stream.token()
    assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
    # Nobody worked; another worker over the same store does it.
    other = build(
        (stream.transmitter,),
        users=stream.door.identity.users,
        links=stream.door.identity.links,
        standing=stream.door.identity.grants.standing,
        store=stream.door.store,
        clock=stream.door.clock,
        fetcher=stream.door.fetcher,
        secret=lambda _source: SECRET,
        record=stream.door.record,
    )
    assert await other.receiver.work() == 1
    assert not stream.lives(token)
    assert await stream.signals.receiver.work() == 0


async def test_a_claim_that_nobody_finishes_ends_by_itself() -> None:
    stream = await make_stream()
    await stream.push(stream.sign(stream.claims()))
    (one,) = stream.signals.receiver.inbox.waiting("acme")
    assert stream.signals.receiver.inbox.claim("acme", one.key)
    assert await stream.signals.receiver.work() == 0
    stream.door.clock.advance(21)
    assert await stream.signals.receiver.work() == 1


async def test_what_cannot_be_recorded_waits_and_is_done_later() -> None:
    stream = await make_stream()
    token = await stream.token()
    await stream.push(stream.sign(stream.claims()))
    stream.door.audit_down = True
    with pytest.raises(AuditUnavailable):
        await stream.signals.receiver.work()
    assert stream.lives(token)
    stream.door.audit_down = False
    assert await stream.signals.receiver.work() == 1
    assert not stream.lives(token)


async def test_the_inbox_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "WAITING", 3)
    stream = await make_stream()
    statuses = [(await stream.push(stream.sign(stream.claims()))).status_code for _ in range(4)]
    assert statuses == [202, 202, 202, 503]
    await stream.signals.receiver.work()
    assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
    for n in range(2):
        stream.signals.receiver.inbox.keep("acme", "idp", f"x{n}", b"x", verified=True)
    with pytest.raises(StateUnavailable):
        stream.signals.receiver.inbox.keep("acme", "idp", "one too many", b"x", verified=True)


async def test_more_than_one_look_takes_is_done_in_several() -> None:
    stream = await make_stream()
    for n in range(300):
        claims = stream.claims(f"{CAEP}session-presented")
        stream.signals.receiver.inbox.keep("acme", "idp", f"e{n}", stream.sign(claims), verified=True)
    assert [await stream.signals.receiver.work() for _ in range(3)] == [256, 44, 0]


async def test_an_event_of_a_transmitter_that_was_removed_has_no_effect() -> None:
    stream = await make_stream()
    token = await stream.token()
    stream.signals.receiver.inbox.keep("acme", "gone", "1", stream.sign(stream.claims()), verified=True)
    await stream.signals.receiver.work()
    assert stream.lives(token)
    assert list(stream.signals.receiver.inbox.waiting("acme")) == []


async def test_the_background_task_does_it_at_once() -> None:
    stream = await make_stream()
    token = await stream.token()
    task = asyncio.create_task(stream.signals.receiver.run())
    try:
        await asyncio.sleep(0)
        assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
        for _ in range(20):
            await asyncio.sleep(0.01)
            if not stream.lives(token):
                break
        assert not stream.lives(token)
    finally:
        task.cancel()


# -- keys ------------------------------------------------------------------------------------------------------------


async def test_rs_03_keys_are_fetched_from_the_configured_address_and_kept() -> None:
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    stream.door.fetcher.answers = {}
    fetcher = Scripted(stream.door.clock)
    fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(KEY)))
    stream = await rebuilt(stream, fetcher)
    for _ in range(3):
        assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
    assert fetcher.asked == [f"{ISSUER}/jwks.json"]
    for n in range(5):  # unknown ids cause one fetch per half minute at most
        assert (await stream.push(stream.sign(stream.claims(), kid=f"k{n}"))).status_code == 400
    assert len(fetcher.asked) == 1
    stream.door.clock.advance(31)
    assert (await stream.push(stream.sign(stream.claims(), kid="k9"))).status_code == 400


async def test_a_slow_key_keeps_nobody_waiting_and_has_no_effect_before_it_held() -> None:
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    fetcher = Scripted(stream.door.clock)
    stream = await rebuilt(stream, fetcher)
    token = await stream.token()
    for key in (KEY, OTHER_KEY):
        fetcher.gate.clear()
        answer = await stream.push(stream.sign(stream.claims(), key=key))
        assert answer.status_code == 202  # kept, unverified
        assert stream.lives(token)
        fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(OTHER_KEY)))
        fetcher.gate.set()
        stream.door.clock.advance(40)
        await stream.signals.receiver.work()
        if key is KEY:  # its signature did not hold
            assert stream.lives(token)
            assert stream.door.named("identity.signal.refused")[-1]["code"] == "invalid_key"
    assert not stream.lives(token)


@pytest.mark.parametrize("apart", [True, False])
async def test_an_event_that_nobody_signed_takes_no_other_events_place(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can push but not sign says nothing first under an id, while keys are away, that makes us deaf to it."""
    if not apart:  # the twin: one key for both
        real = inbox_module.key_of
        monkeypatch.setattr(inbox_module, "key_of", lambda transmitter, jti, _token=b"": real(transmitter, jti))
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    fetcher = Scripted(stream.door.clock)
    stream = await rebuilt(stream, fetcher)
    token = await stream.token()
    claims = stream.claims()
    fetcher.gate.clear()
    assert (await stream.push(stream.sign(claims, key=OTHER_KEY))).status_code == 202
    assert (await stream.push(stream.sign(claims))).status_code == 202
    fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(KEY)))
    fetcher.gate.set()
    stream.door.clock.advance(40)
    await stream.signals.receiver.work()
    assert stream.lives(token) is not apart
    if apart:
        # Once it is known whose word it was, it is not done again.
        assert (await stream.push(stream.sign(claims))).status_code == 202
        await stream.signals.receiver.work()
        assert len(stream.door.named("identity.signal.received")) == 1


async def test_an_event_whose_key_comes_late_is_done_by_then_and_never_dropped() -> None:
    """What was acknowledged has its effect: a slow or absent key set is no reason to forget a revocation."""
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    fetcher = Scripted(stream.door.clock)
    stream = await rebuilt(stream, fetcher)
    token = await stream.token()
    fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(KEY)))
    fetcher.gate.clear()  # slower than the acknowledgement may be
    assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
    fetcher.gate.set()
    await stream.signals.receiver.work()
    assert not stream.lives(token)
    assert len(fetcher.asked) == 1  # who waited no longer left the question standing


async def test_a_key_set_that_hangs_is_waited_for_once_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_module, "KEY_WAIT_S", 0.02)
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    fetcher = Scripted(stream.door.clock)
    stream = await rebuilt(stream, fetcher)
    fetcher.gate.clear()
    for _ in range(40):
        assert (await stream.push(stream.sign(stream.claims()))).status_code == 202
    async with asyncio.timeout(0.3):  # not forty times
        assert await stream.signals.receiver.work() == 0
    fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(KEY)))
    fetcher.gate.set()
    assert await stream.signals.receiver.work() == 40


async def test_an_event_waits_a_day_for_keys_that_nobody_can_tell_and_keeps_no_other_waiting() -> None:
    stream = await make_stream(jwks=None, jwks_uri=f"{ISSUER}/jwks.json")
    fetcher = Scripted(stream.door.clock)
    stream = await rebuilt(stream, fetcher)
    receiver, clock = stream.signals.receiver, stream.door.clock
    token = await stream.token()
    fetcher.keys = Fetched(503, {}, b"")
    statuses = [(await stream.push(stream.sign(stream.claims()))).status_code for _ in range(129)]
    assert statuses == [202] * 128 + [503]  # half of what one look takes
    for _ in range(3):
        assert await receiver.work() == 0
        clock.advance(31)
    assert stream.lives(token)
    assert not stream.door.named("identity.signal.refused")
    receiver.inbox.keep("acme", "idp", "other", stream.sign(stream.claims(sub_id=ADA)), verified=True)
    assert await receiver.work() == 1
    assert not stream.lives(token)
    clock.advance(24 * 3600)
    assert await receiver.work() == 128
    assert stream.door.named("identity.signal.refused")[-1]["detail"] == "away"
    fetcher.keys = Fetched(200, {}, orjson.dumps(public_jwks(KEY)))
    assert (await stream.push(stream.sign(stream.claims()))).status_code == 202  # nothing is left in the counts


@pytest.mark.parametrize(
    "subject",
    [
        {"format": "iss_sub", "iss": ISSUER, "sub": "x" * 2048},
        {"format": "opaque", "id": "é" * 2048},
        {"format": "complex", "session": {"format": "opaque", "id": "s" * 2048}},
    ],
)
async def test_a_subject_that_no_store_can_name_is_done_with_and_stops_nobody(subject: JSONObject) -> None:
    stream = await make_stream()
    token = await stream.token()
    await stream.tell(sub_id=subject)
    assert list(stream.signals.receiver.inbox.waiting("acme")) == []
    assert stream.lives(token)
    await stream.tell()
    assert not stream.lives(token)


@pytest.mark.parametrize("jwks", [{"keys": []}, {"keys": [{"kty": "oct", "k": "AAAA"}]}, "x"])
def test_keys_that_are_none_are_refused_at_start(jwks: JSON) -> None:
    with pytest.raises(ConfigFault):
        Transmitter("idp", ISSUER, ORIGIN, jwks=jwks)


def test_addresses_are_https() -> None:
    for name in ("jwks_uri", "poll_url"):
        with pytest.raises(ConfigFault):
            Transmitter("idp", ISSUER, ORIGIN, **{name: "http://idp.example/x"})  # type: ignore[arg-type]


class Scripted:
    """A transmitter's own endpoints, as a fetcher reaches them."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.keys: Fetched | None = None
        self.polls: list[JSONObject] = []
        self.waiting: dict[str, str] = {}
        self.bearer = ""
        self.status = 200

    async def fetch(self, purpose: Purpose, url: str, **how: Any) -> Fetched:
        if purpose is Purpose.SIGNALS:
            wish = orjson.loads(how["body"])
            self.polls.append(wish)
            self.bearer = dict(how["headers"])[b"authorization"].decode()
            for jti in (*wish["ack"], *wish.get("setErrs", {})):
                self.waiting.pop(jti, None)
            given = dict(list(self.waiting.items())[: wish["maxEvents"]])
            more = len(self.waiting) > len(given)
            return Fetched(self.status, {}, orjson.dumps({"sets": given, "moreAvailable": more}))
        self.asked.append(url)
        await self.gate.wait()
        if self.keys is None:
            raise UpstreamFault("unreachable")
        return self.keys


async def rebuilt(stream: Stream, fetcher: Scripted) -> Stream:
    """Return the stream with another way out."""
    made = make_door()
    made.store, made.clock, made.marks = stream.door.store, stream.door.clock, stream.door.marks
    signals = build(
        (stream.transmitter,),
        users=stream.door.identity.users,
        links=stream.door.identity.links,
        standing=stream.door.identity.grants.standing,
        store=stream.door.store,
        clock=stream.door.clock,
        fetcher=fetcher,
        secret=lambda _source: SECRET,
        record=stream.door.record,
        on_fault=lambda code, detail: stream.faults.append((code, detail)),
    )
    stream.door.identity.front_door._routes = {**stream.door.identity.front_door._routes, **signals.routes}
    stream.signals = signals
    return stream


# -- polling ----------------------------------------------------------------------------------------------------------


def poller(stream: Stream, fetcher: Scripted) -> Poller:
    door = stream.door
    return Poller(stream.transmitter, stream.signals.receiver, fetcher, lambda _source: SECRET, door.store, door.clock)


async def test_a_poll_takes_does_and_acknowledges() -> None:
    stream = await make_stream(poll_url="https://idp.acme.example/poll", poll_secret="env:POLL")
    fetcher = Scripted(stream.door.clock)
    token = await stream.token()
    claims = stream.claims()
    fetcher.waiting[str(claims["jti"])] = stream.sign(claims).decode()
    assert await poller(stream, fetcher).round() == 1
    await stream.signals.receiver.work()
    assert not stream.lives(token)
    assert fetcher.bearer == f"Bearer {SECRET}"
    assert fetcher.polls[0] == {"maxEvents": 50, "returnImmediately": True, "ack": []}
    assert fetcher.polls[-1]["ack"] == [claims["jti"]]
    assert fetcher.waiting == {}


async def test_what_cannot_be_taken_is_reported_back_and_the_rest_is_taken() -> None:
    stream = await make_stream(poll_url="https://idp.acme.example/poll", poll_secret="env:POLL")
    fetcher = Scripted(stream.door.clock)
    good, bad = stream.claims(), stream.claims(aud="https://other.example")
    fetcher.waiting = {
        str(good["jti"]): stream.sign(good).decode(),
        str(bad["jti"]): stream.sign(bad).decode(),
        "swapped": stream.sign(stream.claims()).decode(),
        "junk": "x",
    }
    assert await poller(stream, fetcher).round() == 1
    said: Any = fetcher.polls[-1]["setErrs"]
    assert {jti: e["err"] for jti, e in said.items()} == {
        str(bad["jti"]): "invalid_audience",
        "swapped": "invalid_request",
        "junk": "invalid_request",
    }
    assert fetcher.waiting == {}


async def test_a_poll_goes_on_while_more_waits_and_ends() -> None:
    stream = await make_stream(poll_url="https://idp.acme.example/poll", poll_secret="env:POLL")
    fetcher = Scripted(stream.door.clock)
    for _ in range(120):
        claims = stream.claims(f"{CAEP}session-presented")
        fetcher.waiting[str(claims["jti"])] = stream.sign(claims).decode()
    assert await poller(stream, fetcher).round() == 120
    assert fetcher.waiting == {}


async def test_a_poll_that_is_refused_or_answers_nonsense_is_a_fault() -> None:
    from firewall.core.errors import Malformed

    stream = await make_stream(poll_url="https://idp.acme.example/poll", poll_secret="env:POLL")
    fetcher = Scripted(stream.door.clock)
    fetcher.status = 403
    with pytest.raises(Malformed):
        await poller(stream, fetcher).round()

    async def nonsense(*_args: object, **_more: object) -> Fetched:
        return Fetched(200, {}, b'{"sets":[]}')

    fetcher.fetch = nonsense  # type: ignore[method-assign]
    with pytest.raises(Malformed):
        await poller(stream, fetcher).round()


async def test_of_several_workers_one_asks_at_a_time() -> None:
    stream = await make_stream(poll_url="https://idp.acme.example/poll", poll_secret="env:POLL")
    fetcher = Scripted(stream.door.clock)
    one, other = poller(stream, fetcher), poller(stream, fetcher)
    assert one._my_turn()
    assert not other._my_turn()
    stream.door.clock.advance(16)
    assert other._my_turn()


# -- silence ----------------------------------------------------------------------------------------------------------


async def test_a_stream_that_falls_silent_is_told_once_and_again_after_it_spoke() -> None:
    stream = await make_stream(silent_s=600)
    receiver = stream.signals.receiver
    receiver.health.begin(stream.transmitter)
    receiver.alarm()
    assert stream.faults == []
    stream.door.clock.advance(601)
    receiver.alarm()
    receiver.alarm()
    assert stream.faults == [("signals_silent", "idp")]
    await stream.tell(f"{SSF}verification", {"state": "abc"}, sub_id={"format": "opaque", "id": "stream-1"})
    assert [s.silent for s in receiver.alarm()] == [False]
    stream.door.clock.advance(601)
    receiver.alarm()
    assert stream.faults == [("signals_silent", "idp")] * 2


async def test_a_paused_stream_is_told() -> None:
    stream = await make_stream()
    payload: JSONObject = {"status": "paused", "reason": "maintenance"}
    await stream.tell(f"{SSF}stream-updated", payload, sub_id={"format": "opaque", "id": "stream-1"})
    assert stream.faults == [("signals_stream", "idp: paused")]
    assert [s.status for s in stream.signals.receiver.health.of([stream.transmitter])] == ["paused"]


async def test_op_05_no_secret_and_no_text_of_a_transmitter_reaches_a_record() -> None:
    stream = await make_stream()
    claims = stream.claims(payload={"reason_admin": {"en": "SECRET-TEXT"}}, jti="SECRET-JTI")
    await stream.push(stream.sign(claims))
    await stream.push(stream.sign(stream.claims(iss="https://SECRET-ISSUER.example")))
    await stream.signals.receiver.work()
    told = str(stream.door.events)
    for hidden in ("SECRET-TEXT", "SECRET-JTI", "SECRET-ISSUER", SECRET):
        assert hidden not in told
