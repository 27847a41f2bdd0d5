"""A streamed answer ends with the token that asked for it (RS-19), in the words of either protocol; what was used is charged."""

from __future__ import annotations

import json

import pytest

from firewall.net import tenure
from tests.llm_router.rig import rig


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_rs_19_a_streamed_answer_ends_when_its_token_does(scanner, monkeypatch, protocol):
    monkeypatch.setattr(tenure, "CHECK_S", 0.02)
    async with rig(scanner, protocol=protocol) as r:
        body = r.body("stalls", stream=True) if protocol == "openai" else r.body("stalls", stream=True, max_tokens=50)
        path = "/v1/chat/completions" if protocol == "openai" else "/v1/messages"
        headers = {"content-type": "application/json", "authorization": "Bearer alice"}
        async with r.session.post(r.url + path, data=json.dumps(body).encode(), headers=headers) as got:
            assert got.status == 200
            first = await got.content.readany()
            r.router._resource_server.tokens.clear()
            whole = (first + await got.read()).decode()
        await r.settled()
    last = [json.loads(line[6:]) for line in whole.splitlines() if line.startswith("data: ")][-1]
    assert "not valid" in json.dumps(last["error"])
    assert len(r.spent) == 1


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
async def test_rs_16_nothing_that_the_caller_authenticates_with_reaches_the_provider(scanner, protocol):
    own = {"cookie": "c=1", "dpop": "p", "proxy-authorization": "Basic x", "x-forwarded-user": "root", "txn-token": "t"}
    async with rig(scanner, protocol=protocol) as r:
        path = "/v1/chat/completions" if protocol == "openai" else "/v1/messages"
        body = r.body("ok") if protocol == "openai" else r.body("ok", max_tokens=50)
        assert (await r.post(json.dumps(body).encode(), path=path, **own)).status == 200
        headers, _ = r.provider.seen[-1]
    assert not {name.encode() for name in own} & headers.keys()
    assert not any(b"alice" in value for value in headers.values())
