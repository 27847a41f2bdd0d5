"""People's own accounts at upstreams, against the SDK's protected server and a second front door as its issuer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from firewall.core.errors import FAULTS, ConsentNeeded, Unauthenticated, UpstreamFault, fault_of
from firewall.core.principal import Principal
from firewall.identity.upstream.credentials import CredentialSettings
from firewall.net.dial import Fetched
from tests.support.door import PASSWORD, inputs_of
from tests.support.upstreams import (
    NAME,
    OURS,
    SECRET,
    Node,
    Person,
    Upstream,
    make_node,
    people,
    sign_in_to,
    upstream_server,
)


async def test_a_person_connects_an_account_and_every_request_carries_its_token():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, theirs)]:
            caller = node.caller(ours)
            with pytest.raises(ConsentNeeded) as needed:
                await node.broker.headers_for(caller, NAME)
            assert needed.value.link.startswith(f"{OURS}/upstream/connect/files?ask=e_")
            page = await ada.connect(needed.value.link)
            assert page.status_code == 200, page.text
            assert "Connected" in page.text
            ((name, value),) = await node.broker.headers_for(caller, NAME)
            assert name == b"authorization"
            token = value.removeprefix(b"Bearer ").decode()
            seen = upstream.identity.resource_server.authenticate(
                {b"authorization": b"Bearer " + token.encode()}, upstream.url, default_scope="files:read"
            )
            assert seen.subject == theirs.subject


@contextlib.asynccontextmanager
async def connected(**auth: Any) -> AsyncIterator[tuple[Node, Upstream, Person, Principal]]:
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, **auth))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            await ada.connect(await link_of(node, caller))
            yield node, upstream, ada, caller


async def link_of(node: Node, caller: Principal) -> str:
    with pytest.raises(ConsentNeeded) as needed:
        await node.broker.headers_for(caller, NAME)
    return needed.value.link


async def token_of(node: Node, caller: Principal) -> str:
    ((_, value),) = await node.broker.headers_for(caller, NAME)
    return str(value.removeprefix(b"Bearer ").decode())


def ages(node: Node, upstream: Upstream, seconds: float) -> None:
    node.clock.advance(seconds)
    upstream.clock.advance(seconds)


async def test_a_token_is_kept_for_four_fifths_of_its_life_and_then_renewed_once_for_all_who_wait():
    async with connected() as (node, upstream, _, caller):
        first = await token_of(node, caller)
        ages(node, upstream, 239)
        assert await token_of(node, caller) == first
        assert upstream.calls("/token") == 1
        ages(node, upstream, 2)
        found = await asyncio.gather(*(token_of(node, caller) for _ in range(20)))
        assert len(set(found)) == 1
        assert found[0] != first
        assert upstream.calls("/token") == 2


async def test_two_workers_renew_once_although_their_server_takes_a_second_use_for_theft():
    async with connected() as (node, upstream, _, caller):
        beside = make_node(beside=node, files=sign_in_to(upstream))
        await token_of(node, caller)
        await token_of(beside, caller)
        for _ in range(3):
            ages(node, upstream, 250)
            found = await asyncio.gather(*(token_of(one, caller) for one in (node, beside) * 5))
            assert len(set(found)) == 1
        assert upstream.calls("/token") == 4
        await beside.dialler.close()


async def test_a_server_that_is_down_costs_nothing_while_the_token_lives_and_fails_closed_afterwards():
    async with connected() as (node, upstream, _, caller):
        first = await token_of(node, caller)
        upstream.down = True
        ages(node, upstream, 250)  # due for renewal, not expired
        assert await token_of(node, caller) == first
        ages(node, upstream, 60)
        with pytest.raises(UpstreamFault) as down:
            await token_of(node, caller)
        assert not isinstance(down.value, ConsentNeeded)  # an outage is no reason to ask a person again
        upstream.down = False
        assert await token_of(node, caller) != first


async def test_a_worker_that_starts_while_the_server_is_down_still_knows_whose_credentials_are_whose():
    async with connected() as (node, upstream, _, caller):
        first = await token_of(node, caller)
        upstream.down = True
        beside = make_node(beside=node, files=sign_in_to(upstream))
        assert await token_of(beside, caller) == first
        await beside.dialler.close()


async def test_a_grant_that_was_ended_there_asks_the_person_again():
    async with connected() as (node, upstream, ada, caller):
        await token_of(node, caller)
        there = await upstream.identity.users.verify("ada-there", PASSWORD)
        assert there is not None
        upstream.identity.grants.revoke_subject("saas", there.subject, reason="test")
        ages(node, upstream, 250)
        link = await link_of(node, caller)
        page = await ada.connect(link)
        assert page.status_code == 200
        assert await token_of(node, caller)


async def test_disconnecting_ends_it_here_in_every_worker_and_there():
    async with connected() as (node, upstream, ada, caller):
        beside = make_node(beside=node, files=sign_in_to(upstream))
        token = await token_of(node, caller)
        assert await token_of(beside, caller) == token
        page = await ada.open(f"{OURS}/account/upstreams")
        assert "Disconnect" in page.text
        done = await ada.ours.post("/account/upstreams", inputs_of(page.text))
        assert done.status_code == 303
        for one in (node, beside):
            with pytest.raises(ConsentNeeded):
                await one.broker.headers_for(caller, NAME)
        assert upstream.calls("/revoke") == 2
        assert "Not connected" in (await ada.open(f"{OURS}/account/upstreams")).text
        with pytest.raises(Unauthenticated):
            upstream.identity.resource_server.authenticate(
                {b"authorization": f"Bearer {token}".encode()}, upstream.url, default_scope="files:read"
            )
        await beside.dialler.close()


async def test_an_account_that_is_disabled_here_leaves_nothing_behind():
    async with connected() as (node, _, _ada, caller):
        await token_of(node, caller)
        node.identity.users.update("acme", caller.subject, roles=(), scopes=(), disabled=True)
        with pytest.raises(ConsentNeeded):
            await node.broker.headers_for(caller, NAME)
        assert not list(node.store.collection("upstream_grants").scan("acme"))


async def test_a_newly_connected_account_has_sessions_of_its_own():
    async with connected() as (node, _, ada, caller):
        await token_of(node, caller)
        before = node.broker.key_for(caller, NAME)
        await ada.connect(f"{OURS}/upstream/connect/files")
        assert node.broker.key_for(caller, NAME) != before


async def test_a_person_who_signs_in_first_comes_back_to_what_they_began():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            link = await link_of(node, node.caller(ours))
            page = await ada.ours.get(link)
            assert 'action="/login"' in page.text
            page = await ada.open(link)
            assert "Connect your account at" in page.text
            assert "/upstream/connect/files" in page.text
            cancelled = await ada.agree(page, "deny")
            assert cancelled.headers["location"] == "/account/upstreams"


async def test_what_was_registered_dynamically_is_kept_and_used_again():
    async with upstream_server(registration=True) as upstream:
        node = make_node(files=sign_in_to(upstream, client_id="", method=""))
        async with people(node, upstream, "ada", "bob") as found:
            for person, ours, _ in found:
                await person.connect(await link_of(node, node.caller(ours)))
                assert await token_of(node, node.caller(ours))
            assert upstream.calls("/register") == 1
            beside = make_node(beside=node, files=sign_in_to(upstream, client_id="", method=""))
            assert await token_of(beside, node.caller(found[0][1]))
            assert upstream.calls("/register") == 1
            await beside.dialler.close()


async def test_a_server_that_offers_nothing_is_told_by_the_name_of_the_setting_that_cures_it():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, client_id="", method=""))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            page = await ada.agree(await ada.open(await link_of(node, node.caller(ours))))
            assert page.status_code == 502
            (told,) = node.named("identity.upstream.failed")
            assert told["fix"] == "register a client there by hand and set auth.client_id of files"


async def test_our_client_document_signs_us_in_with_keys_of_its_own():
    origin = "https://fw.example"
    async with upstream_server(cimd_hosts=("fw.example",), cimd_policy="allowlist") as upstream:
        node = make_node(origin=origin, files=sign_in_to(upstream, client_id="", method=""))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            for path in ("/oauth/client.json", "/.well-known/client-jwks.json"):
                told = await ada.ours.http.get(path)
                assert told.status_code == 200
                upstream.fetcher.answers[origin + path] = Fetched(
                    200, {"content-type": "application/json"}, told.content
                )
            document = (await ada.ours.http.get("/oauth/client.json")).json()
            assert document["client_id"] == f"{origin}/oauth/client.json"
            assert document["redirect_uris"] == [f"{origin}/upstream/callback/files"]
            assert document["token_endpoint_auth_method"] == "private_key_jwt"
            ours_jwks = (await ada.ours.http.get("/.well-known/jwks.json")).json()["keys"]
            theirs = (await ada.ours.http.get("/.well-known/client-jwks.json")).json()["keys"]
            assert not {key["kid"] for key in ours_jwks} & {key["kid"] for key in theirs}
            await ada.connect(await link_of(node, node.caller(ours)))
            assert await token_of(node, node.caller(ours))
            ages(node, upstream, 250)
            assert await token_of(node, node.caller(ours))


async def test_services_use_our_own_client_where_people_use_their_own_account():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, ways=("client", "user")))
        async with people(node, upstream, "ada") as [(_, ours, _there)]:
            service = node.caller(ours, kind="service", subject="svc")
            token = await token_of(node, service)
            seen = upstream.identity.resource_server.authenticate(
                {b"authorization": f"Bearer {token}".encode()}, upstream.url, default_scope="files:read"
            )
            assert seen.subject == "bartizan"
            assert await token_of(node, node.caller(ours, kind="service", subject="another")) == token
            assert await link_of(node, node.caller(ours))  # a person is not served by it


async def test_a_static_secret_is_the_last_resort_and_only_where_nothing_fits_the_caller():
    async with upstream_server() as upstream:
        static = {NAME: CredentialSettings("env", "CLIENT_SECRET")}
        node = make_node(files=sign_in_to(upstream), static=static)
        async with people(node, upstream, "ada") as [(_, ours, _there)]:
            ((_, value),) = await node.broker.headers_for(node.caller(ours, kind="service"), NAME)
            assert value == f"Bearer {SECRET}".encode()
            assert await link_of(node, node.caller(ours))


async def test_who_comes_with_another_issuers_token_uses_what_they_connected_here_and_nobody_elses():
    """Direct mode: the link is the (issuer, subject) of their sign-in here, never a name that looks alike."""
    idp = "https://idp.example"
    async with connected() as (node, _, ada, caller):
        token = await token_of(node, caller)
        direct = replace(caller, issuer=idp, subject="corp|00u1")
        with pytest.raises(ConsentNeeded) as needed:
            await node.broker.headers_for(direct, NAME)
        assert needed.value.link == f"{OURS}/upstream/connect/files"
        for alike in (replace(direct, subject=caller.subject), replace(direct, subject=f"corp|{caller.subject}")):
            with pytest.raises(ConsentNeeded):
                await node.broker.headers_for(alike, NAME)
        node.identity.links.link("acme", idp, "00u1", caller.subject)
        assert await token_of(node, direct) == token
        assert node.broker.key_for(direct, NAME) == node.broker.key_for(caller, NAME)
        for other in (replace(direct, issuer="https://evil.example"), replace(direct, tenant="rival")):
            with pytest.raises(ConsentNeeded):
                await node.broker.headers_for(other, NAME)
        assert "Disconnect" in (await ada.open(f"{OURS}/account/upstreams")).text


async def test_a_registration_that_its_server_forgot_is_made_again_when_the_person_connects_again():
    async with upstream_server(registration=True) as upstream:
        node = make_node(files=sign_in_to(upstream, client_id="", method=""))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            await ada.connect(await link_of(node, caller))
            forgotten = (401, {"content-type": "application/json"}, b'{"error":"invalid_client"}')
            upstream.override = lambda path: forgotten if path == "/token" else None
            ages(node, upstream, 250)
            link = await link_of(node, caller)
            upstream.override = lambda _path: None
            assert (await ada.connect(link)).status_code == 200
            assert await token_of(node, caller)
            assert upstream.calls("/register") == 2


async def test_a_registration_that_a_person_made_by_hand_is_never_dropped_for_its_servers_word():
    async with connected() as (node, upstream, _, caller):
        refused = (401, {"content-type": "application/json"}, b'{"error":"invalid_client"}')
        upstream.override = lambda path: refused if path == "/token" else None
        ages(node, upstream, 250)
        with pytest.raises(UpstreamFault) as told:
            await token_of(node, caller)
        assert not isinstance(told.value, ConsentNeeded)
        upstream.override = lambda _path: None
        assert await token_of(node, caller)  # nothing was lost by it


async def test_why_the_other_server_refused_a_sign_in_is_in_the_record_by_its_code():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            refused = (401, {"content-type": "application/json"}, b'{"error":"invalid_client"}')
            upstream.override = lambda path: refused if path == "/token" else None
            page = await ada.connect(await link_of(node, node.caller(ours)))
            assert page.status_code == 403
            (told,) = [facts for event, facts in node.events if event == "identity.upstream.denied"]
            assert told["code"] == "invalid_client"
            for word in (
                urlsplit(upstream.origin).netloc,
                "<code>invalid_client</code>",
                FAULTS["upstream_credentials"].text,
                "upstream_credentials",
            ):
                assert word in page.text


async def test_a_person_who_declined_there_reads_whose_word_it_was_and_what_it_is_called():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            sent = await ada.agree(await ada.open(await link_of(node, node.caller(ours))))
            page = await ada.ours.get(await ada.allow(sent.headers["location"], "deny"))
            assert page.status_code == 403
            assert "<code>access_denied</code>" in page.text
            assert urlsplit(upstream.origin).netloc in page.text
            assert node.named("identity.upstream.denied")[0]["code"] == "access_denied"


@pytest.mark.parametrize(
    "error",
    ["<script>alert(1)</script>", "call_0800_to_get_access", "x" * 5000, "access_denied ", "ACCESS_DENIED"],
)
async def test_words_of_another_server_are_neither_shown_nor_recorded(error: str):
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            sent = await ada.agree(await ada.open(await link_of(node, node.caller(ours))))
            state = parse_qs(urlsplit(sent.headers["location"]).query)["state"][0]
            more = {
                "error_description": "Your password is needed at evil.example",
                "error_uri": "https://evil.example/",
            }
            answer = urlencode({"error": error, **more, "state": state, "iss": upstream.origin})
            page = await ada.ours.get(f"/upstream/callback/{NAME}?{answer}")
            assert page.status_code == 403
            assert "<code>other</code>" in page.text
            assert "evil.example" not in page.text + repr(node.events)
            assert f">{error[:40]}<" not in page.text
            assert repr(error) not in repr(node.events)
            assert [facts["code"] for facts in node.named("identity.upstream.denied")] == ["other"]


async def test_a_server_that_cannot_be_asked_is_named_with_our_reason():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            down = (503, {"content-type": "text/plain"}, b"<b>maintenance at evil.example</b>")
            upstream.override = lambda path: down if path == "/token" else None
            page = await ada.connect(await link_of(node, node.caller(ours)))
            assert page.status_code == 502
            assert FAULTS["upstream_unreachable"].text in page.text
            assert urlsplit(upstream.origin).netloc in page.text
            assert "evil.example" not in page.text
            assert "Their code" not in page.text


@pytest.mark.parametrize(
    ("client_id", "method", "works"),
    [
        ("bartizan-public", "", True),
        ("bartizan-public", "private_key_jwt", False),
        ("bartizan", "private_key_jwt", True),
        ("bartizan", "", False),
    ],
)
async def test_a_client_without_a_secret_is_a_public_one_unless_an_operator_says_otherwise(
    client_id: str, method: Any, works: bool
):
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, client_id=client_id, method=method))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            page = await ada.connect(await link_of(node, caller))
            assert page.status_code == (200 if works else 403)
            assert ("<code>invalid_client</code>" in page.text) is not works
            if works:
                ages(node, upstream, 250)
                assert await token_of(node, caller)  # renewed in the same way


async def test_a_link_is_worth_an_hour_and_one_stands_for_all_askings_of_a_program():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            links = {await link_of(node, caller) for _ in range(5)}
            assert len(links) == 1
            assert await link_of(node, replace(caller, client_id="another")) not in links
            ages(node, upstream, 3601)
            page = await ada.open(links.pop())
            assert page.status_code == 403
            assert "has ended" in page.text


@pytest.mark.parametrize("query", ["ask=%C3%A9", "ask=a%22b", "ask=e_1&ask=e_2", "ask=" + "x" * 9000, "ask=a%0d%0ab"])
async def test_a_link_that_is_no_link_is_a_page_and_sets_nothing(query: str):
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, _, _there)]:
            page = await ada.ours.get(f"/upstream/connect/files?{query}")
            assert page.status_code in (200, 400)
            assert "\n" not in page.headers.get("set-cookie", "")
            assert '"' not in page.headers.get("set-cookie", "")


async def test_only_people_whom_an_upstream_serves_can_connect_there():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, tenants=("rival",)))
        async with people(node, upstream, "ada") as [(ada, _, _there)]:
            page = await ada.open(f"{OURS}/upstream/connect/files")
            assert page.status_code == 403
            assert "files" not in (await ada.open(f"{OURS}/account/upstreams")).text.partition("<h1>")[2]


async def test_who_is_connected_and_needs_more_reads_that_and_not_that_nothing_is_connected():
    async with connected() as (node, _upstream, _ada, caller):
        (header,) = await node.broker.headers_for(caller, NAME)
        with pytest.raises(ConsentNeeded) as needed:
            await header.renew(403, 'Bearer error="insufficient_scope", scope="files:write"')
        told = fault_of(needed.value)
        assert (told.code, told.status) == ("upstream_consent", 403)
        assert "Connect again to allow more." in told.text
        assert needed.value.link in told.text
        assert "files:write" not in told.text  # an upstream's words stay there
    # The twin: whoever has connected nothing reads what they read before.
    first = ConsentNeeded(NAME, f"{OURS}/upstream/connect/{NAME}")
    assert fault_of(first).text.startswith("Connect your own account at the upstream first. Open ")
