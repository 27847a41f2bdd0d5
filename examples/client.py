"""An agent's side of the road, on the official MCP client: sign in at the firewall, list the tools, call one.

    python examples/client.py http://127.0.0.1:8700/mcp/time get_current_time '{"timezone": "Europe/Vienna"}'

The first request is answered with a challenge; the client finds the authorization server by metadata,
opens the browser for sign-in and consent (PKCE, resource indicator), and comes back on a loopback
port. ``--client-id`` is the URL of the client id metadata document; the one of the demonstration is
pinned in its configuration, so that nothing is fetched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import webbrowser
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

DEMO_CLIENT = "https://tour.bartizan.example/client.json"


class Memory(TokenStorage):
    """Keeps tokens as long as the process; a real client puts them in the system's key store."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class LoopbackCallback:
    """Listens for the one answer of the browser, on whatever port is free: a loopback redirect may have any (RFC 8252 §7.3)."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.redirect_uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}/callback"
        self._answer: asyncio.Future[dict[str, str]] | None = None
        self._server: asyncio.Server | None = None

    async def open(self, url: str) -> None:
        """Listen, then show the sign-in page."""
        self._answer = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        print(f"sign in: {url}", flush=True)
        # A browser in the terminal keeps its caller waiting until it is left; the answer must be heard meanwhile.
        asyncio.get_running_loop().run_in_executor(None, webbrowser.open, url)

    async def wait(self) -> AuthorizationCodeResult:
        """Return what the authorization server sent."""
        assert self._answer is not None
        found = await asyncio.wait_for(self._answer, 300)
        if self._server is not None:
            self._server.close()
        if "code" not in found:
            raise PermissionError(f"not signed in: {found['error']}")
        return AuthorizationCodeResult(code=found["code"], state=found.get("state"), iss=found.get("iss"))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).decode("latin-1").split(" ")[1]
        found = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        text = b"Signed in; you may close this page." if "code" in found else b"Not signed in."
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % len(text)
        )
        writer.write(text)
        writer.close()
        if found.keys() & {"code", "error"} and self._answer is not None and not self._answer.done():
            self._answer.set_result(found)


async def run(url: str, tool: str, arguments: dict[str, object], client_id: str) -> None:
    """Sign in, list, call."""
    callback = LoopbackCallback()
    auth = OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata(
            redirect_uris=[callback.redirect_uri],
            token_endpoint_auth_method="none",
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            client_name="example client",
        ),
        storage=Memory(),
        redirect_handler=callback.open,
        callback_handler=callback.wait,
        client_metadata_url=client_id,
    )
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        print(f"protocol {client.protocol_version}")
        for found in (await client.list_tools()).tools:
            print(f"  {found.name}: {(found.description or '').splitlines()[0][:100]}")
        result = await client.call_tool(tool, arguments)
        print(("refused: " if result.is_error else "") + "\n".join(getattr(b, "text", "") for b in result.content))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Calls one tool through the firewall.")
    parser.add_argument("url")
    parser.add_argument("tool")
    parser.add_argument("arguments", nargs="?", default="{}")
    parser.add_argument("--client-id", default=DEMO_CLIENT)
    given = parser.parse_args()
    try:
        asyncio.run(run(given.url, given.tool, json.loads(given.arguments), given.client_id))
    except Exception as error:
        cause: Exception = error
        while isinstance(cause, ExceptionGroup):  # the SDK's task groups wrap what happened
            cause = cause.exceptions[0]
        raise SystemExit(f"{type(cause).__name__}: {cause}") from None


if __name__ == "__main__":
    main()
