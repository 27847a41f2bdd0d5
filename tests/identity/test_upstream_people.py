"""People's own accounts at upstreams, against the SDK's protected server and a second front door as its issuer."""

from __future__ import annotations

import pytest

from firewall.core.errors import ConsentNeeded
from tests.support.upstreams import NAME, OURS, make_node, people, sign_in_to, upstream_server


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
