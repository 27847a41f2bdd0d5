"""A command-line MCP client for the official suite's client scenarios: our gateway and its upstream OAuth client.

    python -m tests.front_door.conformance_client http://localhost:3000/mcp

The official SDK client talks to our gateway, in this process; whatever signs in upstream is ours (`identity.upstream`):
discovery, registration, PKCE, ``iss``, renewal, step-up, client credentials, ID-JAG. The "browser" presses our
button and reads where it is sent. The suite says what to use: MCP_CONFORMANCE_SCENARIO, _CONTEXT, _PROTOCOL_VERSION.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.jwk import ECKey
from mcp import Client, MCPError

from firewall.identity.upstream import our_client
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from tests.support.door import Browser
from tests.support.mcp import NO_TLS, Stack, running, spec
from tests.support.upstreams import MovedClock, Node, Person, make_node

# The document that the suite's servers know; ours stands elsewhere under other names.
DOCUMENT = "https://conformance-test.local/client-metadata.json"
ORIGIN = "https://conformance-test.local"
NAME = "conf"
ROUNDS = 6
LAG_S = 61  # between two tries: what we do not do twice within half a minute is done again


def sign_in(url: str, scenario: str, context: dict[str, Any]) -> tuple[UpstreamAuth, dict[str, str], ECKey | None]:
    """Return how to sign in, the environment that holds the secrets, and our key where the suite gives one."""
    given: dict[str, Any] = {"url": url, "network": "loopback", "dpop": "on"}
    environment: dict[str, str] = {}
    key = None
    if "client_id" in context:
        given["client_id"] = context["client_id"]
    if "client_secret" in context:
        environment["SECRET"] = context["client_secret"]
        given |= {"secret": Secret(env="SECRET"), "issuer": context.get("issuer") or issuer_of(url)}
    if "private_key_pem" in context:
        key = ECKey.import_key(context["private_key_pem"])
        given["method"] = "private_key_jwt"
    if "client-credentials" in scenario:
        given["ways"] = ("client",)
    if "valid_jwt" in context:
        environment["ASSERTION"] = context["valid_jwt"]
        given |= {"ways": ("client",), "method": "none", "assertion": Secret(env="ASSERTION"), "issuer": issuer_of(url)}
    if "idp_issuer" in context:
        given |= {"ways": ("id_jag",), "idp": context["idp_issuer"], "idp_client_id": context["idp_client_id"]}
    if scenario.startswith("auth/2025-03-26"):
        given["s256_assumed"] = True  # that revision's servers do not all say what they know
    return UpstreamAuth(**given), environment, key


def issuer_of(url: str) -> str:
    """Return the issuer that the suite does not tell: what an operator would write down beside a secret."""
    place = urlsplit(url)
    described = httpx2.get(f"{place.scheme}://{place.netloc}/.well-known/oauth-protected-resource{place.path}")
    return str(described.json()["authorization_servers"][0])


async def main(url: str) -> None:
    """List the tools and call the first one, connecting wherever that is asked for."""
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    auth, environment, key = sign_in(url, scenario, context)
    our_client.ClientIdentity.document_url = lambda _self, _group, *, signed: DOCUMENT  # type: ignore[method-assign]
    node = make_node(origin=ORIGIN, key=key, environment=environment, conf=auth)
    ada = await node.user("ada")
    caller = node.caller(ada, scopes=frozenset({"conf:read", "conf:write"}))
    if "idp_id_token" in context:
        upstreams = node.identity.upstreams
        assert upstreams is not None
        token = context["idp_id_token"]
        upstreams.subjects.keep("acme", ada.subject, auth.idp, "id_token", token, lives_s=600)
    try:
        async with running(
            spec(NAME, url=url, tenants=("acme",)), people={"ada": caller}, credentials=node.broker
        ) as stack:
            await use(stack, node)
    finally:
        await node.dialler.close()


async def use(stack: Stack, node: Node) -> None:
    """Use the server until it works, or until nothing more can be done."""
    person = Person(node, None, "ada", "", node.browser(), Browser(httpx2.AsyncClient()))  # type: ignore[arg-type]
    for _ in range(ROUNDS):
        async with stack.client("/mcp/conf", mode="legacy", token="ada") as client:
            link = await once(client)
        if not link:
            break
        await connect(person, link)
        assert isinstance(node.clock, MovedClock)
        node.clock.advance(LAG_S)
    else:
        raise SystemExit("asked to connect again and again")
    await person.ours.http.aclose()
    await person.theirs.http.aclose()


async def once(client: Client) -> str:
    """List and call; return where to connect an account, "" when nothing is asked."""
    try:
        tools = (await client.list_tools()).tools
        for tool in tools[:1]:
            await client.call_tool(tool.name, {})
    except MCPError as error:
        link = error.error.data.get("url") if isinstance(error.error.data, dict) else None
        if not isinstance(link, str):
            raise SystemExit(f"no way on: {error}") from None
        return link
    return ""


async def connect(person: Person, link: str) -> None:
    """Be the person and the browser: agree on our page, follow the redirects, come back."""
    sent = await person.agree(await person.open(link))
    location = sent.headers.get("location", "")
    if not location:
        raise SystemExit("our page would not go there: " + sent.text[-400:])
    async with httpx2.AsyncClient(verify=NO_TLS, timeout=10) as http:
        reply = await http.get(location)
    back = reply.headers.get("location", "")
    page = await person.ours.get(back.removeprefix(ORIGIN))
    if page.status_code != 200:
        raise SystemExit("the answer was refused: " + page.text[-400:])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
