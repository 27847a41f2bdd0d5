"""RFC 9126: pushed authorization requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode

import httpx2
import pytest

from firewall.identity.rfc9126.par import LIFETIME_S, URN, PushedRequests
from firewall.identity.settings import ClientSettings
from firewall.state.memory import MemoryCollection
from firewall.wire.oauth import Form, OAuthError
from tests.support.door import (
    CALLBACK,
    CIMD_DOCUMENT,
    CIMD_URL,
    GIT,
    TIME,
    Browser,
    Door,
    assertion,
    authorize_query,
    callback_of,
    client_credentials,
    make_door,
    public_jwks,
    redeem,
    registered_clients,
)
from tests.support.door import CLIENT_KEY as KEY

WEB = "https://tool.example/cb"
ASSERTED = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}


async def push(http: httpx2.AsyncClient, values: Mapping[str, str] | None = None, **changes: str) -> httpx2.Response:
    form = {**(authorize_query() if values is None else values), **changes}
    return await http.post("/par", data={name: value for name, value in form.items() if value != "-"})


async def open_pushed(http: httpx2.AsyncClient, request_uri: str, client_id: str = CIMD_URL) -> httpx2.Response:
    return await Browser(http).open({"client_id": client_id, "request_uri": request_uri})


def pushing_only(door_clients: tuple[ClientSettings, ...] = ()) -> Door:
    client = ClientSettings(
        "careful", "Careful", redirect_uris=("http://127.0.0.1/callback",), tenant="", pushed_only=True
    )
    return make_door(clients=(*registered_clients(), client, *door_clients))


async def test_a_pushed_request_leads_to_a_code_and_tokens() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        pushed = await push(http)
        assert (pushed.status_code, pushed.json()["expires_in"]) == (201, LIFETIME_S)
        assert pushed.headers["cache-control"] == "no-store"
        browser = Browser(http)
        page = await browser.sign_in(await open_pushed(http, pushed.json()["request_uri"]))
        answer = callback_of(await browser.approve(page))
        assert answer["state"] == "xyz"
        assert (await redeem(http, answer["code"])).status_code == 200


async def test_as_24_the_name_of_a_request_has_256_random_bits_and_is_kept_as_a_digest() -> None:
    door = make_door()
    async with door.http() as http:
        names = {(await push(http)).json()["request_uri"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith(URN) and len(name) == len(URN) + 43 for name in names)
    kept = [entry.key for entry in door.store.collection("pushed_requests").scan("_node")]
    assert not {name.removeprefix(URN) for name in names} & set(kept)


async def test_a_name_works_once_even_for_fifty_at_once() -> None:
    door = make_door(authorize_per_minute=100)
    async with door.http() as http:
        name = (await push(http)).json()["request_uri"]

    async def somebody() -> httpx2.Response:
        async with door.http() as elsewhere:
            return await open_pushed(elsewhere, name)

    replies = await asyncio.gather(*(somebody() for _ in range(50)))
    late = await somebody()
    assert [reply.status_code for reply in replies].count(200) == 1
    assert late.status_code == 400
    assert "has expired or was used before" in late.text
    refused = door.named("identity.authorize.refused")
    assert refused
    assert {fact["code"] for fact in refused} == {"pushed_unknown"}


async def test_without_the_atomic_take_a_name_would_work_again(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    monkeypatch.setattr(MemoryCollection, "take", lambda self, tenant, key: self.get(tenant, key))
    async with door.http() as http, door.http() as elsewhere:
        name = (await push(http)).json()["request_uri"]
        assert [(await open_pushed(who, name)).status_code for who in (http, elsewhere)] == [200, 200]


async def test_a_page_of_a_pushed_request_may_be_loaded_again_in_the_browser_that_began_it_until_the_decision() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http, door.http() as elsewhere:
        name = (await push(http)).json()["request_uri"]
        browser = Browser(http)
        await open_pushed(http, name)
        signing_in = await open_pushed(http, name)
        assert signing_in.status_code == 200
        stolen = await open_pushed(elsewhere, name)
        assert stolen.status_code == 400
        other = await open_pushed(http, name, "https://other.example/client.json")
        assert other.status_code == 400
        first = await browser.sign_in(signing_in)
        again = await open_pushed(http, name)
        assert "xyz" not in again.text
        assert (first.status_code, again.status_code) == (200, 200)
        answer = callback_of(await browser.approve(first))
        assert (await redeem(http, answer["code"])).status_code == 200
        ended = await open_pushed(http, name)
        assert ended.status_code == 400
    assert len(list(door.store.collection("oauth_transactions").scan("_node"))) == 0


async def test_without_the_binding_another_client_could_use_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test below: a record that names nobody in particular."""
    door = make_door()
    monkeypatch.setattr("firewall.identity.rfc9126.par.records.text", lambda _value, _name: "tool")
    async with door.http() as http:
        query = authorize_query(redirect_uri="http://127.0.0.1/callback")
        name = (await push(http, query)).json()["request_uri"]
        parts = door.identity.front_door._routes["/par"]["POST"].__self__._pushed  # type: ignore[attr-defined]
        assert parts.take(name, "tool").get("client_id") == CIMD_URL


async def test_a_name_ends_before_a_minute_is_over() -> None:
    door = make_door()
    async with door.http() as http:
        name, other = [(await push(http)).json()["request_uri"] for _ in range(2)]
        door.clock.advance(LIFETIME_S - 1)
        assert (await open_pushed(http, name)).status_code == 200
        door.clock.advance(1)
        assert (await open_pushed(http, other)).status_code == 400
    assert LIFETIME_S < 60


async def test_a_name_is_bound_to_its_client_and_a_stranger_cannot_use_it_up() -> None:
    door = make_door()
    async with door.http() as http:
        name = (await push(http)).json()["request_uri"]
        for client_id in ("tool", "", CIMD_URL + "/"):
            assert (await open_pushed(http, name, client_id)).status_code == 400
        assert (await open_pushed(http, name)).status_code == 200


@pytest.mark.parametrize("name", [URN, URN + "A" * 43, "urn:x:" + "A" * 43, "https://evil.example/r", "A" * 43])
async def test_an_unknown_name_gets_a_page_and_no_redirect(name: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await http.get(f"/authorize?{urlencode({**authorize_query(), 'request_uri': name})}")
    assert reply.status_code == 400
    assert "location" not in reply.headers
    assert door.fetcher.asked == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"redirect_uri": "https://evil.example/cb"}, "invalid_request"),
        ({"redirect_uri": "-"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "-"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"resource": TIME + "//"}, "invalid_target"),
        ({"scope": "git:read"}, "invalid_scope"),
        ({"request_uri": URN + "A" * 43}, "invalid_request"),
        ({"request": "a.b.c"}, "invalid_request"),
        ({"client_id": "-"}, "invalid_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": "svc-basic"}, "invalid_client"),
    ],
)
async def test_a_bad_request_is_refused_where_it_is_pushed(changes: dict[str, str], error: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await push(http, **changes)
    assert reply.json()["error"] == error
    assert reply.status_code == (401 if error == "invalid_client" else 400)
    assert list(door.store.collection("pushed_requests").scan("_node")) == []


async def test_who_writes_a_client_is_told_what_of_the_request_is_wrong_and_nothing_of_it_is_echoed() -> None:
    door = make_door()
    evil = "https://evil.example/cb"
    async with door.http() as http:
        for changes, word in (
            ({"code_challenge_method": "plain"}, "S256"),
            ({"code_challenge": "-"}, "S256"),
            ({"code_challenge": "short"}, "43 characters"),
            ({"redirect_uri": evil}, "none of those that this client"),
            ({"redirect_uri": "-"}, "redirect_uri"),
        ):
            told = (await push(http, **changes)).json()["error_description"]
            assert word in told, changes
            assert evil not in told
        twice = urlencode([*authorize_query().items(), ("state", "again")])
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        told = (await http.post("/par", content=twice, headers=headers)).json()["error_description"]
        assert told == "A parameter is sent more than once."


async def test_as_07_nothing_may_repeat_in_a_pushed_request() -> None:
    door = make_door()
    async with door.http() as http:
        body = f"{urlencode(authorize_query())}&resource={TIME}"
        reply = await http.post("/par", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert reply.json()["error"] == "invalid_target"
        body = f"{urlencode(authorize_query())}&prompt=login&prompt=none"
        reply = await http.post("/par", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert reply.json()["error"] == "invalid_request"


@pytest.mark.parametrize("path", ["/par", "/introspect"])
async def test_as_19_requests_of_one_address_are_limited_per_minute(path: str) -> None:
    door = make_door(token_per_minute=3)
    async with door.http() as http:
        statuses = [(await http.post(path, data=authorize_query())).status_code for _ in range(4)]
        assert statuses[3] == 429
        assert 429 not in statuses[:3]
        door.clock.advance(60)
        assert (await http.post(path, data=authorize_query())).status_code != 429


async def test_as_13_browsers_of_other_origins_learn_nothing_by_introspection() -> None:
    door = make_door()
    async with door.http() as http:
        preflight = await http.options("/introspect", headers={"Origin": "https://evil.example"})
        answer = await http.post("/introspect", data={"token": "x"}, auth=("svc-basic", "a-long-random-secret"))
    assert preflight.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    assert answer.json() == {"active": False}


async def test_parameters_beside_the_name_do_not_count() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        name = (await push(http)).json()["request_uri"]
        beside = {"client_id": CIMD_URL, "request_uri": name, "resource": GIT, "state": "other", "redirect_uri": WEB}
        browser = Browser(http)
        answer = callback_of(await browser.approve(await browser.sign_in(await browser.open(beside))))
        assert answer["state"] == "xyz"
        assert (await redeem(http, answer["code"], redirect_uri=CALLBACK)).status_code == 200


async def test_a_client_that_must_push_is_refused_at_the_front() -> None:
    door = pushing_only()
    query = authorize_query(client_id="careful")
    async with door.http() as http:
        plain = callback_of(await Browser(http).open(query))
        assert (plain["error"], plain["state"]) == ("invalid_request", "xyz")
        name = (await push(http, query)).json()["request_uri"]
        assert (await open_pushed(http, name, "careful")).status_code == 200
        # The twin: a client that need not is let in.
        assert (await Browser(http).open(authorize_query(client_id="tool"))).status_code == 200


async def test_a_confidential_client_authenticates_and_its_credentials_are_not_kept() -> None:
    web = ClientSettings(
        "svc-batch", "Web", redirect_uris=(WEB,), auth_method="private_key_jwt", tenant="", jwks=public_jwks(KEY)
    )
    door = make_door(clients=(web,))
    query = authorize_query(client_id="svc-batch", redirect_uri=WEB)
    async with door.http() as http:
        assert (await push(http, query)).status_code == 401
        proof = assertion(door)
        # The id stands in the assertion; it need not be repeated.
        pushed = await push(http, query, client_id="-", client_assertion=proof, **ASSERTED)
        assert pushed.status_code == 201
        assert (await open_pushed(http, pushed.json()["request_uri"], "svc-batch")).status_code == 200
        # An assertion serves once, here as at the token endpoint (AS-20).
        assert (await push(http, query, client_assertion=proof, **ASSERTED)).status_code == 401
        assert (await client_credentials(http, proof)).status_code == 401
        other = await push(http, query, client_assertion=assertion(door, jti="2"), **ASSERTED)
        assert other.status_code == 201
    kept = b"".join(entry.value for entry in door.store.collection("pushed_requests").scan("_node"))
    assert b"code_challenge" in kept
    assert b"assertion" not in kept


def test_what_was_pushed_comes_back_as_it_was() -> None:
    door = make_door()
    pushed = PushedRequests(door.store, door.clock, lambda n: b"\x01" * n)
    form = Form({"client_id": "c", "state": "ä\u2028", "scope": ""}, frozenset())
    assert pushed.take(pushed.push(form, "c", address="192.0.2.7"), "c") == form
    with pytest.raises(OAuthError):
        pushed.take(URN + "A" * 43, "c")


async def test_a_document_may_say_that_its_client_always_pushes() -> None:
    document = {**CIMD_DOCUMENT, "require_pushed_authorization_requests": True}
    door = make_door(cimd_pinned={CIMD_URL: document})
    async with door.http() as http:
        assert callback_of(await Browser(http).open(authorize_query()))["error"] == "invalid_request"
        name = (await push(http)).json()["request_uri"]
        assert (await open_pushed(http, name)).status_code == 200
