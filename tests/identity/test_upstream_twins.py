"""Attacks with and on credentials for upstreams, each run twice: with its control, where it fails, and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import BartizanError
from firewall.identity.upstream import grants as grants_module
from firewall.identity.upstream import metadata, verify
from firewall.state import envelope
from tests.identity.test_upstream_attacks import (
    METADATA,
    PRM,
    altered,
    connected,
    forget_discovery,
    later,
    link_of,
    token_of,
)
from tests.identity.test_upstream_minting import node_of, refused
from tests.support.upstreams import NAME, make_node, people, sign_in_to, upstream_server

BOTH = pytest.mark.parametrize("control", ["on", "off"])


@BOTH
async def test_cl_06_a_refresh_token_for_the_issuer_that_an_upstream_names_today(
    control: str, monkeypatch: pytest.MonkeyPatch
):
    if control == "off":
        whole: Any = grants_module.Place.key
        blind = property(lambda place: whole.fget(replace(place, issuer="any")))
        monkeypatch.setattr(grants_module.Place, "key", blind)
    async with upstream_server() as thief, connected() as (node, upstream, _, caller):
        altered(upstream, PRM, authorization_servers=[thief.origin])
        forget_discovery(node, upstream)
        with pytest.raises(BartizanError):
            await node.broker.headers_for(caller, NAME)
        assert thief.calls("/token") == (control == "off")


@BOTH
async def test_cl_07_a_token_endpoint_on_an_origin_of_somebody_else(control: str, monkeypatch: pytest.MonkeyPatch):
    async with upstream_server() as thief, connected() as (node, upstream, _, caller):
        if control == "off":
            real = metadata.parse_server_metadata
            monkeypatch.setattr(
                metadata,
                "parse_server_metadata",
                lambda data, issuer, **more: real(data, issuer, **{**more, "origins": (thief.origin,)}),
            )
        altered(upstream, METADATA, token_endpoint=f"{thief.origin}/token")
        forget_discovery(node, upstream)
        later(node, upstream, 400)
        try:
            await token_of(node, caller)
        except BartizanError:
            pass
        assert thief.calls("/token") == (control == "off")


@BOTH
async def test_cl_08_a_row_that_was_put_in_the_place_of_another(control: str, monkeypatch: pytest.MonkeyPatch):
    if control == "off":
        monkeypatch.setattr(envelope, "_bound", lambda *_: b"")
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        async with people(node, upstream, "ada", "bob") as [(ada, ours, _), (bob, theirs, _)]:
            tokens = []
            for person, user in ((ada, ours), (bob, theirs)):
                await person.connect(await link_of(node, node.caller(user)))
                tokens.append(await token_of(node, node.caller(user)))
            rows = node.store.collection("upstream_grants")
            one, two = rows.scan("acme")
            rows.put("acme", one.key, two.value)
            rows.put("acme", two.key, one.value)
            node.marks.bump()
            try:
                found = await token_of(node, node.caller(ours))
            except BartizanError:
                found = ""
            assert found == (tokens[1] if control == "off" else "")


@BOTH
@pytest.mark.parametrize("wrong", ["audience", "key"])
async def test_cl_10_an_exchanged_token_of_somebody_elses(wrong: str, control: str, monkeypatch: pytest.MonkeyPatch):
    if control == "off":

        async def unread(*_given: object, **_more: object) -> None:
            return None

        monkeypatch.setattr(verify.TokenVerifier, "check", unread)
    async with node_of("exchange") as (node, server):
        if wrong == "audience":
            server.change = lambda claims: claims.update(aud="https://other.saas.example/mcp")
        else:
            server.signer = ECKey.generate_key("P-256", private=True)
        assert bool(await refused(node)) is (control == "on")
