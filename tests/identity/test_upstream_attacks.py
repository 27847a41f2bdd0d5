"""CL-04 … CL-10 against the broker: each attack with its control on, and a twin that shows what the control does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from firewall.core.errors import AuditUnavailable, ConsentNeeded, StateUnavailable, UpstreamFault
from firewall.core.principal import Principal
from firewall.identity.people.users import User
from firewall.identity.upstream import broker as broker_module
from firewall.identity.upstream import grants as grants_module
from firewall.identity.upstream import personal as personal_module
from firewall.identity.upstream.settings import Secret
from firewall.net.renewing import LiveHeader
from tests.support.upstreams import (
    NAME,
    OURS,
    Node,
    Person,
    Upstream,
    make_node,
    people,
    sign_in_to,
    upstream_server,
)

METADATA = "/.well-known/oauth-authorization-server"
PRM = "/.well-known/oauth-protected-resource/mcp/files"


@contextlib.asynccontextmanager
async def connected(**auth: Any) -> AsyncIterator[tuple[Node, Upstream, Person, Principal]]:
    """A node at which ada has connected an account."""
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, **auth))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            page = await ada.connect(await link_of(node, caller))
            assert page.status_code == 200
            yield node, upstream, ada, caller


async def link_of(node: Node, caller: Principal) -> str:
    with pytest.raises(ConsentNeeded) as needed:
        await node.broker.headers_for(caller, NAME)
    return needed.value.link


async def token_of(node: Node, caller: Principal) -> str:
    ((_, value),) = await node.broker.headers_for(caller, NAME)
    return str(value.removeprefix(b"Bearer ").decode())


def altered(upstream: Upstream, path: str, **changes: Any) -> None:
    """Serve a document of the upstream's with other members from now on."""
    from firewall.identity.rfc8414.metadata import resource_metadata, server_metadata

    identity = upstream.identity
    resource = identity.resources.at("/mcp/files")
    assert resource is not None
    told: Any = (
        server_metadata(identity.settings, identity.resources)
        if path == METADATA
        else resource_metadata(identity.resources, resource)
    )
    body = json.dumps({k: v for k, v in {**told, **changes}.items() if v is not None}).encode()
    before = upstream.override
    upstream.override = lambda asked: (
        (200, {"content-type": "application/json"}, body) if asked == path else before(asked)
    )


def later(node: Node, upstream: Upstream, seconds: float) -> None:
    """Let time pass on both sides: what our node signs is of now."""
    node.clock.advance(seconds)
    upstream.clock.advance(seconds)


def forget_discovery(node: Node, upstream: Upstream) -> None:
    later(node, upstream, 3601)


# -- CL-04, CL-05, CL-07: whom we believe ----------------------------------------------------------------


async def test_cl_04_metadata_that_claims_another_issuer_gets_no_browser_and_no_credential():
    async with upstream_server() as upstream:
        altered(upstream, METADATA, issuer="https://honest.example")
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            with pytest.raises(UpstreamFault, match="credentials"):
                await node.broker.headers_for(node.caller(ours), NAME)
            page = await ada.open(f"{OURS}/upstream/connect/files")
            assert page.status_code == 502
            upstream.override = lambda _path: None  # the twin
            later(node, upstream, 31)
            assert await link_of(node, node.caller(ours))


async def test_cl_05_a_server_that_does_not_name_s256_is_refused_unless_an_operator_says_otherwise():
    async with upstream_server() as upstream:
        altered(upstream, METADATA, code_challenge_methods_supported=None)
        for assumed, status in ((False, 502), (True, 303)):
            node = make_node(files=sign_in_to(upstream, s256_assumed=assumed))
            async with people(node, upstream, f"ada{assumed}".lower()) as [(ada, _, _)]:
                page = await ada.agree(await ada.open(f"{OURS}/upstream/connect/files"))
                assert page.status_code == status


async def test_cl_05_the_operator_is_told_which_setting_cures_it():
    async with upstream_server() as upstream:
        altered(upstream, METADATA, code_challenge_methods_supported=["plain"])
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, _, _)]:
            await ada.agree(await ada.open(f"{OURS}/upstream/connect/files"))
            (told,) = node.named("identity.upstream.failed")
            assert told["fix"] == "if it does, set auth.s256_assumed of files"


async def test_cl_07_a_refresh_token_never_goes_to_an_endpoint_of_another_origin():
    async with upstream_server() as thief, connected() as (node, upstream, _, caller):
        altered(upstream, METADATA, token_endpoint=f"{thief.origin}/token")
        forget_discovery(node, upstream)
        later(node, upstream, 400)
        await token_of(node, caller)  # the last good metadata still counts; its own token endpoint renews
        assert thief.calls("/token") == 0
        assert upstream.calls("/token") == 2
    async with (
        upstream_server() as thief,
        connected(origins=(thief_origin := thief.origin,)) as (node, upstream, _, who),
    ):
        altered(upstream, METADATA, token_endpoint=f"{thief_origin}/token")  # the twin: an operator named it
        forget_discovery(node, upstream)
        later(node, upstream, 400)
        with pytest.raises((UpstreamFault, ConsentNeeded)):
            await token_of(node, who)
        assert thief.calls("/token") == 1


# -- CL-06: an issuer is part of what a credential is ---------------------------------------------------------


async def test_cl_06_a_switched_issuer_gets_nothing_of_what_the_old_one_gave():
    async with upstream_server() as other, connected() as (node, upstream, _, caller):
        before = await token_of(node, caller)
        altered(upstream, PRM, authorization_servers=[other.origin])
        forget_discovery(node, upstream)
        with pytest.raises(ConsentNeeded):
            await node.broker.headers_for(caller, NAME)
        assert other.calls("/token") == 0
        assert node.named("identity.upstream.issuer_changed") == [{"upstream": NAME, "issuer": other.origin}]
        upstream.override = lambda _path: None  # the twin: with the issuer back, so is the credential
        forget_discovery(node, upstream)
        assert await token_of(node, caller) != before  # renewed at its own issuer, an hour later


async def test_cl_06_an_upstream_that_refuses_a_token_and_names_another_issuer_gets_no_renewal():
    async with upstream_server() as other, connected() as (node, upstream, _, caller):
        (header,) = await node.broker.headers_for(caller, NAME)
        assert isinstance(header, LiveHeader)
        altered(upstream, PRM, authorization_servers=[other.origin])
        later(node, upstream, 31)
        challenge = f'Bearer error="invalid_token", resource_metadata="{upstream.origin}{PRM}"'
        with pytest.raises(ConsentNeeded):
            await header.renew(401, challenge)
        assert other.calls("/token") == 0
        assert upstream.calls("/token") == 1
        upstream.override = lambda _path: None  # the twin
        later(node, upstream, 31)
        assert await header.renew(401, challenge) is not None
        assert upstream.calls("/token") == 2


async def test_cl_06_other_workers_stop_presenting_a_token_of_the_old_issuer_at_once():
    async with upstream_server() as other, connected() as (node, upstream, _, caller):
        beside = make_node(beside=node, files=sign_in_to(upstream))
        assert await token_of(beside, caller) == await token_of(node, caller)
        altered(upstream, PRM, authorization_servers=[other.origin])
        (header,) = await node.broker.headers_for(caller, NAME)
        later(node, upstream, 31)
        with pytest.raises(ConsentNeeded):
            await header.renew(401, "Bearer")
        with pytest.raises(ConsentNeeded):
            await beside.broker.headers_for(caller, NAME)
        await beside.dialler.close()


# -- CL-08: at rest ------------------------------------------------------------------------------------------------


async def test_cl_08_nothing_of_a_token_stands_in_the_store_and_swapped_rows_do_not_open():
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada", "bob") as found:
            callers = []
            for person, ours, _ in found:
                caller = node.caller(ours)
                await person.connect(await link_of(node, caller))
                callers.append(caller)
            rows = node.store.collection("upstream_grants")
            entries = list(rows.scan("acme"))
            assert len(entries) == 2
            tokens = [await token_of(node, caller) for caller in callers]
            for entry in entries:
                assert not any(token[:40].encode() in entry.value for token in tokens)
                assert b"access_token" not in entry.value
            rows.put("acme", entries[0].key, entries[1].value)
            rows.put("acme", entries[1].key, entries[0].value)
            node.marks.bump()
            for caller in callers:
                with pytest.raises(StateUnavailable):
                    await node.broker.headers_for(caller, NAME)
            for entry in entries:  # the twin: back in their places they open
                rows.put("acme", entry.key, entry.value)
            assert [await token_of(node, caller) for caller in callers] == tokens


async def test_cl_08_a_row_of_one_tenant_does_not_open_in_another():
    async with connected() as (node, _, _, caller):
        (entry,) = node.store.collection("upstream_grants").scan("acme")
        node.store.collection("upstream_grants").put("rival", entry.key, entry.value)
        node.marks.bump()
        with pytest.raises(StateUnavailable):
            await node.broker.headers_for(replace(caller, tenant="rival"), NAME)
        assert await token_of(node, caller)


# -- CL-09: whose it is ----------------------------------------------------------------------------------------------


async def test_cl_09_one_persons_consent_is_nobody_elses_not_even_an_administrators():
    async with connected() as (node, _, _, caller):
        bob = await node.user("bob")
        others = [
            node.caller(bob),
            node.caller(bob, roles=("admin",)),
            replace(caller, tenant="rival"),
            replace(caller, kind="service"),
            replace(caller, kind="local"),
        ]
        for other in others:
            with pytest.raises(ConsentNeeded):
                await node.broker.headers_for(other, NAME)
            assert node.broker.key_for(other, NAME) != node.broker.key_for(caller, NAME)
        assert await token_of(node, caller)  # the twin: its owner has it
        same = replace(caller, client_id="another-program-of-hers")
        assert await token_of(node, same) == await token_of(node, caller)


async def test_cl_09_without_the_person_in_the_key_everybody_would_share(monkeypatch: pytest.MonkeyPatch):
    """The twin: what refuses above is the person in the row's key, and nothing else."""
    monkeypatch.setattr(grants_module, "_part", lambda _subject: "everybody")
    async with connected() as (node, _, _, caller):
        bob = await node.user("bob")
        assert await token_of(node, node.caller(bob)) == await token_of(node, caller)


def _of_nobody(principal: Principal, upstream: str, way: str) -> tuple[str, ...]:
    return (principal.tenant, upstream, way)


def _of_no_tenant(principal: Principal, upstream: str, way: str) -> tuple[str, ...]:
    return (upstream, way, principal.subject)


@pytest.mark.parametrize("part", ["person", "tenant"])
async def test_cl_09_without_it_in_the_slot_of_the_cache_others_would_be_given_what_was_just_fetched(
    part: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(broker_module, "_slot", _of_nobody if part == "person" else _of_no_tenant)
    async with connected() as (node, _, _, caller):
        other = node.caller(await node.user("bob")) if part == "person" else replace(caller, tenant="rival")
        assert await token_of(node, caller)
        assert await token_of(node, other) == await token_of(node, caller)


async def test_cl_09_without_the_tenant_in_the_place_of_a_row_another_tenant_would_find_it(
    monkeypatch: pytest.MonkeyPatch,
):
    real = personal_module.place_of
    monkeypatch.setattr(personal_module, "place_of", lambda who, *given: replace(real(who, *given), tenant="acme"))
    async with connected() as (node, _, _, caller):
        assert caller.tenant == "acme"
        assert await token_of(node, replace(caller, tenant="rival")) == await token_of(node, caller)


async def test_cl_09_an_anonymous_service_is_not_asked_to_connect_anything():
    async with connected() as (node, _, _, caller):
        with pytest.raises(ConsentNeeded) as needed:
            await node.broker.headers_for(replace(caller, kind="service"), NAME)
        assert needed.value.link == ""


# -- the browser's leg: confused deputies, mix-ups, replays -----------------------------------------------------------


async def started(ada: Person, node: Node, caller: Principal) -> str:
    """Begin at our page; return the address of the upstream's authorization server."""
    sent = await ada.agree(await ada.open(await link_of(node, caller)))
    assert sent.status_code == 303, sent.text
    return str(sent.headers["location"])


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[Node, Upstream, Person, Person, User, User]]:
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada", "bob") as [(ada, one, _), (bob, other, _)]:
            yield node, upstream, ada, bob, one, other


async def test_a_link_that_was_made_for_one_person_cannot_be_followed_by_another():
    async with two() as (node, _, ada, bob, ours, _other):
        link = await link_of(node, node.caller(ours))
        page = await bob.open(link)
        assert page.status_code == 403
        assert "another account" in page.text
        assert (await ada.open(link)).status_code == 200


async def test_an_answer_that_reaches_another_browser_or_comes_twice_is_refused():
    async with two() as (node, _, ada, bob, ours, _other):
        back = await ada.allow(await started(ada, node, node.caller(ours)))
        await bob.open(f"{OURS}/account/upstreams")  # bob is signed in
        assert (await bob.ours.get(back)).status_code == 403
        assert (await ada.ours.get(back)).status_code == 403  # looked at once, whoever looked
        with pytest.raises(ConsentNeeded):
            await node.broker.headers_for(node.caller(ours), NAME)
        again = await ada.allow(await started(ada, node, node.caller(ours)))
        assert (await ada.ours.get(again)).status_code == 200  # the twin


async def test_an_attackers_own_answer_cannot_be_planted_in_a_victims_browser():
    async with two() as (node, _, ada, bob, ours, other):
        planted = await bob.allow(await started(bob, node, node.caller(other)))
        await ada.open(f"{OURS}/account/upstreams")
        assert (await ada.ours.get(planted)).status_code == 403
        with pytest.raises(ConsentNeeded):
            await node.broker.headers_for(node.caller(ours), NAME)


@pytest.mark.parametrize("iss", ["https://evil.example", ""])
async def test_an_answer_of_another_issuer_is_a_mix_up_and_its_error_is_not_read(iss: str):
    async with two() as (node, upstream, ada, _bob, ours, _other):
        back = await ada.allow(await started(ada, node, node.caller(ours)))
        mine = f"iss={upstream.origin.replace(':', '%3A').replace('/', '%2F')}"
        assert mine in back
        page = await ada.ours.get(back.replace(mine, f"iss={iss}" if iss else "x=y"))
        assert page.status_code == 403
        assert "did not come from the place that was asked" in page.text
        assert upstream.calls("/token") == 0


async def test_a_denial_there_is_a_page_here_without_a_word_of_theirs():
    async with two() as (node, _, ada, _bob, ours, _other):
        back = await ada.allow(await started(ada, node, node.caller(ours)), "deny")
        page = await ada.ours.get(f"{back}&error_description=%3Cscript%3Ealert(1)%3C/script%3E")
        assert page.status_code == 403
        assert "script" not in page.text
        assert "no access" in page.text


async def test_nothing_is_asked_elsewhere_before_the_person_agreed_on_our_page():
    """The confused-deputy rule: a link alone never reaches the other server, nor does a forged form."""
    async with two() as (node, upstream, ada, _bob, ours, _other):
        link = await link_of(node, node.caller(ours))
        page = await ada.open(link)
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]  # or the button never arms
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "location" not in page.headers
        forged = await ada.ours.post(
            "/upstream/connect/files", {"decision": "approve", "ask": link.partition("ask=")[2], "csrf": "x.y"}
        )
        assert forged.status_code == 403
        cross = await ada.ours.http.post(
            "/upstream/connect/files", data={"decision": "approve"}, headers={"Origin": "https://evil.example"}
        )
        assert cross.status_code == 403
        assert not any("bz_up_" in name for name in ada.ours.http.cookies)  # set only after the person agreed
        assert upstream.calls("/authorize") == 0


async def test_the_authorization_request_names_pkce_resource_and_our_own_address():
    async with two() as (node, upstream, ada, _bob, ours, _other):
        location = await started(ada, node, node.caller(ours))
        assert location.startswith(f"{upstream.origin}/authorize?")
        for part in (
            "code_challenge_method=S256",
            "resource=http%3A%2F%2F127.0.0.1",
            "redirect_uri=http%3A%2F%2F127.0.0.1%3A8700%2Fupstream%2Fcallback%2Ffiles",
            "client_id=bartizan",
        ):
            assert part in location


# -- secrets in what is written ------------------------------------------------------------------------------------------


async def test_no_event_holds_a_token_a_code_or_a_verifier():
    async with connected() as (node, upstream, _, caller):
        token = await token_of(node, caller)
        later(node, upstream, 400)
        again = await token_of(node, caller)
        written = json.dumps(node.events)
        assert token not in written
        assert again not in written
        assert "bzr_" not in written
        assert {name for name, _ in node.events} >= {
            "identity.upstream.begun",
            "identity.upstream.linked",
            "identity.upstream.refreshed",
        }
        assert "Bearer" not in repr(node.broker)
        grant = node.identity.upstreams.grants.of_person("acme", caller.subject)[0]  # type: ignore[union-attr]
        assert token not in repr(grant)
        assert again not in repr(grant)


def test_a_secret_is_not_part_of_a_setting():
    assert "CLIENT" in repr(Secret(env="CLIENT_SECRET"))


async def test_op_06_where_no_record_can_be_written_no_access_is_kept():
    async with two() as (node, _, ada, _bob, ours, _other):
        back = await ada.allow(await started(ada, node, node.caller(ours)))

        class Full(list):  # type: ignore[type-arg]
            def append(self, _event: object) -> None:
                raise AuditUnavailable("audit_unavailable")

        kept, node.events = node.events, Full()
        assert (await ada.ours.get(back)).status_code == 503
        node.events = kept
        assert not list(node.store.collection("upstream_grants").scan("acme"))
        again = await ada.allow(await started(ada, node, node.caller(ours)))
        assert (await ada.ours.get(again)).status_code == 200  # the twin


@pytest.mark.parametrize("ended", [True, False])
async def test_who_is_ended_while_their_server_answers_is_given_nothing(ended: bool):
    async with two() as (node, upstream, ada, _bob, ours, _other):
        back = await ada.allow(await started(ada, node, node.caller(ours)))
        before = upstream.override

        def meanwhile(path: str) -> Any:
            if path == "/token" and ended:
                node.identity.users.end(ours.tenant, ours.subject, reason="signal_session-revoked")
            return before(path)

        upstream.override = meanwhile
        assert (await ada.ours.get(back)).status_code == (403 if ended else 200)
        assert bool(list(node.store.collection("upstream_grants").scan("acme"))) is not ended
