"""An agent that people sign in to: callers are led to our own page, and the message can be sent again afterwards."""

from __future__ import annotations

import pytest

from firewall.core.errors import ConsentNeeded
from tests.a2a_gateway.rig import OwnCredential, firewall
from tests.a2a_gateway.test_flow import agent, hi, http, rpc  # noqa: F401  a fixture

pytestmark = [pytest.mark.anyio, pytest.mark.flow]
LINK = "https://fw.example/upstream/connect/echo?ask=e_1"


class Asks(OwnCredential):
    """Nobody has connected an account, until somebody has."""

    connected = False

    async def headers_for(self, principal, upstream):
        if not self.connected:
            raise ConsentNeeded(upstream, LINK, "e_1")
        return self.headers


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage"])
async def test_a_caller_is_told_where_to_connect_and_the_same_message_goes_through_afterwards(agent, scanner, method):  # noqa: F811
    asks = Asks()
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks) as rig,
        http(rig.token()) as web,
    ):
        message = hi()
        told = (await rpc(rig, web, method, message)).json()["error"]
        assert told["code"] == -31407
        assert LINK in told["message"]
        assert agent.seen == []
        asks.connected = True
        answer = await rpc(rig, web, method, message)
        assert "error" not in answer.text.partition("data:")[2][:40]
        assert agent.seen
