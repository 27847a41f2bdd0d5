"""Attacks by and on clients, each run twice: with its control, where it fails, and without, where it works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import Malformed
from firewall.identity.cimd import documents as cimd_documents
from firewall.identity.cimd import images, logos
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.cimd.trust import HostTrust
from firewall.identity.rfc7523 import assertions, client_auth, client_keys, workloads
from firewall.identity.rfc7591 import metadata, registrations
from firewall.net.dial import Fetched
from firewall.wire import cimd, jwt, oauth, strict_json
from tests.identity.test_client_auth import KEY, URI, Desk, fetched, public, service, unsigned
from tests.identity.test_logos import LOGO, SVG, answers, describing, png
from tests.identity.test_registration import NATIVE, open_door, register
from tests.identity.test_workloads import account_token, ask, svid
from tests.identity.test_workloads import open_door as workload_door
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, Browser, authorize_query, make_door

Attack = Callable[[], Awaitable[bool]]
ControlOff = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """attack returns whether it succeeded."""

    name: str
    attack: Attack
    off: ControlOff


CASES: list[Case] = []


def case(name: str, off: ControlOff) -> Callable[[Attack], Attack]:
    def register_case(attack: Attack) -> Attack:
        CASES.append(Case(name, attack, off))
        return attack

    return register_case


def patched(owner: Any, name: str, value: Any) -> ControlOff:
    return lambda patch: patch.setattr(owner, name, value)


def nothing(*_args: object, **_more: object) -> None:
    return None


async def awaited_nothing(*_args: object, **_more: object) -> None:
    return None


def publishing(**changes: Any) -> Fetched:
    body = strict_json.dumps({**CIMD_DOCUMENT, **changes})
    return Fetched(200, {"content-type": "application/json"}, body)


# -- assertions ------------------------------------------------------------------------------------------------


@case("as_20 an assertion that lives for a year", patched(assertions, "ASSERTION_S", 10**9))
async def long_life() -> bool:
    desk = Desk()
    return await desk.present(desk.sign(exp=desk.clock.now_us() // 1_000_000 + 31_536_000)) == "svc"


@case(
    "as_20 an assertion whose subject is another client",
    patched(client_auth, "check_client_claims", lambda *_: ("j", 2**31)),
)
async def other_issuer() -> bool:
    desk = Desk()
    return await desk.present(desk.sign(iss="somebody")) == "svc"


@case("as_20 an access token as a client assertion", patched(client_auth, "TYPES", ("at+jwt",)))
async def access_token() -> bool:
    desk = Desk()
    return await desk.present(desk.sign(header={"typ": "at+jwt"})) == "svc"


@case("as_20 an assertion of another signer", patched(client_keys.jwt, "verify", lambda t, _k: t.claims))
async def other_signer() -> bool:
    desk = Desk()
    return await desk.present(desk.sign(key=ECKey.generate_key("P-256", private=True))) == "svc"


@case("as_21 a confidential client that shows no credentials", patched(client_auth, "_presented", lambda form, _a: (form.get("client_id"), "private_key_jwt", "x")))  # fmt: skip
async def no_credentials() -> bool:
    desk = Desk()
    answer = await desk.present(client_id="svc")
    return answer != "invalid_client client_method"


@case("rs_03 a flood of invented key ids", patched(client_keys, "REFETCH_S", 0))
async def key_flood() -> bool:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"))
    for number in range(20):
        desk.clock.advance(0.001)
        await desk.present(unsigned(desk, {"alg": "ES256", "kid": f"k{number}"}))
    return len(desk.network.asked) > 1


@case("rs_05 a set of too many keys", patched(jwt, "KEYS_PER_SET", 10**6))
async def key_count() -> bool:
    desk = Desk(service(jwks=None, jwks_uri=URI))
    desk.network.answers[URI] = fetched(public(KEY, "c1"), *(public(KEY, f"k{n}") for n in range(60)))
    return await desk.present(desk.sign()) == "svc"


# -- workloads ------------------------------------------------------------------------------------------------------


@case("as_20 a service account token meant for the cluster", patched(workloads.jwt, "check_claims", nothing))
async def cluster_audience() -> bool:
    door = workload_door()
    return (await ask(door, account_token(door, aud=["https://kubernetes.default.svc"]))).status_code == 200


@case("a svid whose path names our trust domain", patched(workloads, "_SPIFFE", "spiffe://other.example/../"))
async def other_domain() -> bool:
    """Without the prefix a domain would be read out of the path."""
    door = workload_door()
    subject = "spiffe://other.example/../prod.example/ns/jobs/sa/batch"
    await ask(door, svid(door, sub=subject))
    return bool(door.named("identity.token.refused")[-1]["code"] == "workload_unknown")


# -- documents ---------------------------------------------------------------------------------------------------


@case("cl_01 a host that nobody listed", patched(HostTrust, "check_host", awaited_nothing))
async def unlisted_host() -> bool:
    door = make_door(cimd_pinned={}, cimd_hosts=("other.example",))
    door.fetcher.answers[CIMD_URL] = publishing()
    async with door.http() as http:
        await Browser(http).open(authorize_query())
    return bool(door.fetcher.asked)


@case("cl_01 twenty documents named by one address", patched(cimd_documents, "FETCHES_PER_MINUTE", 10**6))
async def fetch_flood() -> bool:
    door = make_door(cimd_pinned={}, cimd_policy="any")
    async with door.http() as http:
        for number in range(20):
            await http.get("/authorize", params=authorize_query(client_id=f"https://h{number}.example/c"))
    return len(door.fetcher.asked) > 10


@case("cl_02 a document that says it is another client", patched(cimd, "check_document", lambda url, value, real=cimd.check_document: real(str(value["client_id"]), value)))  # fmt: skip
async def other_document() -> bool:
    door = make_door(cimd_pinned={})
    door.fetcher.answers[CIMD_URL] = publishing(client_id="https://claude.ai/oauth/client")
    async with door.http() as http:
        return (await Browser(http).open(authorize_query())).status_code == 200


@case("cl_03 a failing host that takes a session away", patched(cimd_documents, "STALE_S", -(10**6)))
async def failing_host() -> bool:
    door = make_door(cimd_pinned={})
    door.fetcher.answers[CIMD_URL] = publishing()
    assert await door.identity.clients.find(CIMD_URL)
    door.clock.advance(3601)
    door.fetcher.answers.clear()
    try:
        await door.identity.clients.find(CIMD_URL, allow_stale=True)
    except Malformed:
        return True
    return False


@case("cl_03 a failing host that is a client for a new request", patched(ClientDocuments.get, "__kwdefaults__", {"allow_stale": True, "address": ""}))  # fmt: skip
async def failing_for_new() -> bool:
    door = make_door(cimd_pinned={})
    door.fetcher.answers[CIMD_URL] = publishing()
    documents = door.identity.clients._documents
    await documents.get(CIMD_URL)
    door.clock.advance(3601)
    door.fetcher.answers.clear()
    try:
        await documents.get(CIMD_URL)
    except Malformed:
        return False
    return True


@case("ui_01 a changed document that is taken as agreed", patched(cimd, "_CONSENTED", ()))
async def changed_document() -> bool:
    door = make_door(cimd_pinned={})
    await door.user()
    door.fetcher.answers[CIMD_URL] = publishing()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        door.clock.advance(3601)
        door.fetcher.answers[CIMD_URL] = publishing(client_name="Bank")
        return (await browser.open(authorize_query())).status_code == 303


@case(
    "ui_04 a script as a picture", patched(logos, "parse_picture", lambda data: images.Picture("image/svg+xml", data))
)
async def script_picture() -> bool:
    door = make_door()
    answers(door, SVG)
    return await door.identity.logos.path_for(describing(door)) != ""


@case("ui_04 a picture of ten gigapixels", patched(images, "PIXELS", 10**9))
async def large_picture() -> bool:
    door = make_door()
    answers(door, png(100_000, 100_000))
    return await door.identity.logos.path_for(describing(door)) != ""


@case("ui_04 a file behind a picture", patched(logos, "parse_picture", lambda data: images.Picture("image/png", data)))
async def carried_along() -> bool:
    door = make_door()
    answers(door, png() + b"PK\x03\x04 an archive")
    path = await door.identity.logos.path_for(describing(door))
    async with door.http() as http:
        return b"archive" in (await http.get(path)).content


@case("cl_01 a picture from a stranger's host", patched(logos, "is_of_host", lambda *_: True))
async def foreign_picture() -> bool:
    door = make_door()
    answers(door, b"", "https://tracker.example/pixel.png")
    await door.identity.logos.path_for(describing(door, "https://tracker.example/pixel.png"))
    return bool(door.fetcher.asked) and LOGO not in str(door.fetcher.asked)


# -- registration ------------------------------------------------------------------------------------------------


@case("as_22 a client that registers tokens of its own", lambda patch: (patch.setattr(metadata, "REFUSED_GRANTS", ()), patch.setattr(metadata, "GRANTS", ("client_credentials",)))[0])  # fmt: skip
async def own_tokens() -> bool:
    return (await register(open_door(), grant_types=["client_credentials"])).status_code == 201


@case("as_22 an unused registration that stays", patched(registrations, "UNUSED_S", 10**9))
async def unused_stays() -> bool:
    door = open_door()
    made = (await register(door)).json()["client_id"]
    door.clock.advance(24 * 3600)
    return await door.identity.clients.find(made) is not None


@case("as_22 a flood that grows the table", patched(registrations.Registrations, "_make_room", nothing))
async def table_flood() -> bool:
    door = open_door(registration_cap=5)
    for _ in range(20):
        door.identity.registrations.add(metadata.parse_registration(NATIVE))
    return len(door.identity.registrations.list()) > 5


@case("as_22 a flood that displaces a client in use", patched(registrations, "_last_use", lambda entry: (0, 0)))
async def displaced() -> bool:
    door = open_door(registration_cap=5)
    made = metadata.parse_registration(NATIVE)
    known = [door.identity.registrations.add(made)[0] for _ in range(5)]
    for client_id in known[:1]:
        door.identity.registrations.used(client_id)
    first = min(known)  # where the table would begin without an order
    door.identity.registrations.used(first)
    for _ in range(3):
        door.clock.advance(1)
        door.identity.registrations.add(made)
    return await door.identity.clients.find(first) is None


@case("as_03 a redirect that runs a script", patched(oauth, "check_redirect_uri", lambda uri: uri))
async def script_redirect() -> bool:
    return (await register(open_door(), redirect_uris=["javascript:alert(1)"])).status_code == 201


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name.replace(" ", "_"))
async def test_attack_fails_with_its_control_and_works_without(
    one: Case, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        one.off(monkeypatch)
    assert await one.attack() is (control == "off")
