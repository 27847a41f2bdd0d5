"""The published MCP client signs in with an identity assertion (SEP-990), without a browser, at a whole firewall."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey
from mcp import Client
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthToken

from firewall.wire import jwt
from tests.invariants.conftest import house_config
from tests.support.composed import composed
from tests.support.world import world

pytestmark = pytest.mark.flow

IDP = "https://idp.acme.example"
IDP_KEY = ECKey.generate_key("P-256", {"kid": "idp-1"}, private=True)
SECRET = "0123456789abcdef0123456789abcdef"
JWT_BEARER = "jwt_bearer"


class Memory:
    """The client's own store."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> None:
        return None

    async def set_client_info(self, client_info: Any) -> None:
        return None


def identity() -> dict[str, Any]:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    return {
        "clients": {"desk": {"grants": [JWT_BEARER], "scopes": ["*"], "secret_sha256": digest}},
        "trusted_issuers": {
            IDP: {
                "jwks": {"keys": [dict(IDP_KEY.as_dict(private=False))]},
                "create": True,
                "account_scopes": ["demo:*"],
            }
        },
    }


async def test_the_mcp_client_signs_in_by_the_enterprise_and_asks_for_more_when_it_must(tmp_path: Path) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state", identity=identity())) as wall:
        asked: list[tuple[str, str]] = []

        async def id_jag(audience: str, resource: str) -> str:
            asked.append((audience, resource))
            now = int(time.time())
            claims = {"iss": IDP, "sub": "00u1", "aud": audience, "resource": resource, "client_id": "desk"}
            claims |= {"iat": now, "exp": now + 300, "jti": f"jti-{len(asked)}", "scope": "demo:read demo:write"}
            return jwt.sign(claims, IDP_KEY, alg="ES256", typ="oauth-id-jag+jwt", kid="idp-1")

        server, memory = f"{wall.url}/mcp/demo", Memory()
        auth = IdentityAssertionOAuthProvider(
            server,
            memory,
            "desk",
            SECRET,
            wall.url,
            id_jag,
            scope="demo:read",
            token_endpoint_auth_method="client_secret_basic",
        )
        async with httpx2.AsyncClient(auth=auth, timeout=20) as http:
            async with Client(streamable_http_client(server, http_client=http), cache=None) as client:
                assert "echo" in [tool.name for tool in (await client.list_tools()).tools]
                assert asked == [(wall.url, server)]
                assert memory.tokens is not None
                assert memory.tokens.scope == "demo:read"
                assert memory.tokens.refresh_token is None
                assert not (await client.call_tool("echo", {"text": "x"})).is_error
                # A tool that writes: the client is told which scope is missing, and asks again by itself.
                assert not (await client.call_tool("put", {"text": "x"})).is_error
                assert len(asked) == 2
                assert set((memory.tokens.scope or "").split()) == {"demo:read", "demo:write"}
        people = wall.worker.identity.users.list("default")
        assert [person.name.startswith("linked-") for person in people] == [True], "one account, made at first contact"
