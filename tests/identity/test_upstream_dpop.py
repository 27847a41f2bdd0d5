"""Tokens of upstreams bound to a key of ours: at a real front door that checks every proof, through the gateway."""

from __future__ import annotations

import pytest
from mcp import MCPError

from firewall.core.errors import Unauthenticated
from firewall.identity.rfc6750.challenges import ProofRefused
from firewall.identity.rfc9449.signer import DPoPSigner
from tests.support.mcp import running, spec
from tests.support.upstreams import NAME, make_node, people, sign_in_to, upstream_server


@pytest.mark.parametrize("dpop", ["auto", "on"])
async def test_tokens_are_bound_where_both_sides_say_that_they_know_it_and_every_request_is_proven(dpop: str):
    async with upstream_server(bound=True) as upstream:
        node = make_node(files=sign_in_to(upstream, dpop=dpop))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            async with running(
                spec(NAME, url=upstream.url, tenants=("acme",), effects={"whoami": "read"}),
                people={"ada": caller},
                credentials=node.broker,
            ) as stack:
                async with stack.client("/mcp/files", mode="legacy", token="ada") as client:
                    with pytest.raises(MCPError) as told:
                        await client.list_tools()
                    assert (await ada.connect(told.value.error.data["url"])).status_code == 200
                    assert len((await client.list_tools()).tools) == 2
                    assert not (await client.call_tool("whoami", {})).is_error
                    sent = [value for _, value in upstream.seen if value]
                    assert sent
                    assert all(value.startswith("DPoP ") for value in sent)
                    (grant,) = node.identity.upstreams.grants.of_person("acme", ours.subject)  # type: ignore[union-attr]
                    assert grant.token_type == "dpop"
                    for moved in (node.clock, upstream.clock):
                        moved.advance(250)
                    assert not (await client.call_tool("whoami", {})).is_error  # renewed with the same key
                    assert len({value for _, value in upstream.seen if value}) == 2


async def test_a_stolen_bound_token_is_worth_nothing_without_the_key():
    async with upstream_server(bound=True) as upstream:
        node = make_node(files=sign_in_to(upstream, dpop="auto"))
        thief = make_node(files=sign_in_to(upstream, dpop="auto"))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            await ada.connect("/upstream/connect/files")
            (header,) = await node.broker.headers_for(node.caller(ours), NAME)
            guard = upstream.identity.resource_server
            name, proof_of_mine = header.signs.proof("POST", upstream.url)
            with pytest.raises(ProofRefused) as nonce:
                guard.authenticate(
                    {b"authorization": header[1], name: proof_of_mine},
                    upstream.url,
                    default_scope="",
                    method="POST",
                    path="/mcp/files",
                )
            told = {"dpop-nonce": nonce.value.nonce, "www-authenticate": 'DPoP error="use_dpop_nonce"'}
            assert header.signs.again(upstream.url, 401, told)
            mine = header.signs.proof("POST", upstream.url)
            taken = {b"authorization": header[1], mine[0]: mine[1]}
            assert guard.authenticate(taken, upstream.url, default_scope="", method="POST", path="/mcp/files")
            other = DPoPSigner(b"t" * 32, thief.clock, lambda n: b"x" * n)
            other.heard("acme", NAME, upstream.url, told)
            proof = other.proof("acme", NAME, method="POST", url=upstream.url, token=header[1].decode()[5:])
            for stolen in (
                {b"authorization": b"Bearer " + header[1][5:]},
                {b"authorization": header[1]},
                {b"authorization": header[1], b"dpop": proof.encode()},
                taken,  # the very proof, a second time
            ):
                with pytest.raises(Unauthenticated):
                    guard.authenticate(stolen, upstream.url, default_scope="", method="POST", path="/mcp/files")
        await thief.dialler.close()
