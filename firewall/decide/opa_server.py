"""Decisions from a real OPA server: a lean HTTP/1.1 client on a unix socket or loopback.

What stock clients get wrong for a decision (policy reference §7): a body without ``result`` is
HTTP 200 (undefined), retries repeat slow failures, nothing bounds the answer. Here: one POST per
decision with ``strict-builtin-errors`` (OPA is not strict by itself, H14) and ``provenance`` (so
that a server with another revision is noticed), a deadline over everything, a cap on the answer,
and every status but 200, every doubt, is a PolicyFault, which is a deny.

The server must be on this host: a unix socket, or a literal loopback address. It is part of the
platform, like the policies themselves; it is not reached through the dialler for that reason.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import orjson

from firewall.core.errors import ConfigFault, PolicyFault
from firewall.core.points import Point
from firewall.decide.bundle import Bundle
from firewall.decide.contract import DECISION_BYTES

IDLE_CONNECTIONS: Final = 16
_HEAD_BYTES: Final = 16 * 1024
_PATH: Final = "/v1/data/firewall/decision?strict-builtin-errors=true&provenance=true"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})

_Open = Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class OpaServerEngine:
    """A policy engine in an OPA server (core.ports.RemotePolicyEngine). Belongs to one event loop.

    address: ``unix:/absolute/path`` or ``http://127.0.0.1:PORT``. revision: of the bundle that the
    server must have loaded (`write_for_opa` puts it into the manifest); an answer of another one is
    PolicyFault("policy_unavailable"). token: sent as a bearer token when not empty.
    deadline_s: for one decision, connecting included.
    """

    def __init__(self, address: str, revision: str, *, token: str = "", deadline_s: float = 0.25) -> None:
        self.name = "opa-server"
        self.revision = revision
        self._deadline_s = deadline_s
        self._open, host = _opener(address)
        if not all("!" <= c <= "~" for c in token):
            raise ConfigFault("policy_opa", "the token holds characters that a header cannot carry")
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._head = f"POST {_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{authorization}Content-Length: "
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._closed = False

    async def decide_remote(self, point: Point, input_json: bytes) -> bytes:
        """Return the decision document's JSON. Raises PolicyFault: engine_error, policy_unavailable."""
        body = b'{"input":' + input_json + b"}"
        request = f"{self._head}{len(body)}\r\n\r\n".encode() + body
        try:
            async with asyncio.timeout(self._deadline_s):
                status, answer = await self._ask(request)
        except TimeoutError:
            raise PolicyFault("engine_error", "the OPA server did not answer in time") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            raise PolicyFault("engine_error", "the OPA server could not be asked") from None
        if status != 200:
            raise PolicyFault("engine_error", f"the OPA server answered {status}")
        return self._result(answer)

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        while self._idle:
            self._idle.pop()[1].close()

    def _result(self, answer: bytes) -> bytes:
        try:
            document = orjson.loads(answer)
        except orjson.JSONDecodeError:
            raise PolicyFault("engine_error", "the OPA server's answer is not JSON") from None
        result = document.get("result") if isinstance(document, dict) else None
        if not isinstance(result, dict):
            raise PolicyFault("engine_error", "the decision is undefined")
        provenance = document.get("provenance")
        bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
        revisions = (
            {b.get("revision") for b in bundles.values() if isinstance(b, dict)} if isinstance(bundles, dict) else set()
        )
        if revisions != {self.revision}:
            raise PolicyFault("policy_unavailable", "the OPA server has another revision of the policies")
        return orjson.dumps(result)

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        """Send on a kept connection; when the server closed it meanwhile, once more on a fresh one."""
        if self._idle:
            reader, writer = self._idle.pop()
            try:
                return await self._exchange(reader, writer, request)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                    raise
        reader, writer = await self._open()
        return await self._exchange(reader, writer, request)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, bytes]:
        keep = False
        try:
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            version, _, rest = lines[0].partition(" ")
            if version != "HTTP/1.1":
                raise ValueError("not HTTP/1.1")
            fields = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            answer = await _body(reader, fields)
            keep = fields.get("connection", "").lower() != "close"
            return int(rest[:3]), answer
        finally:
            # A connection is kept only after a complete answer: a cut one must never serve another decision.
            if keep and not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append((reader, writer))
            else:
                writer.close()


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        parts: list[bytes] = []
        left = DECISION_BYTES
        while True:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            if not 0 <= size <= left:
                raise ValueError("the answer is too large")
            parts.append(await reader.readexactly(size))
            left -= size
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk does not end")
            if size == 0:
                return b"".join(parts)
    length = int(fields["content-length"]) if "content-length" in fields else -1
    if not 0 <= length <= DECISION_BYTES:
        raise ValueError("the answer has no length, or is too large")
    return await reader.readexactly(length)


def _opener(address: str) -> tuple[_Open, str]:
    """Return how to connect, and the Host field. Raises ConfigFault("policy_opa")."""
    if address.startswith("unix:/"):
        path = address.removeprefix("unix:")
        return (lambda: asyncio.open_unix_connection(path, limit=_HEAD_BYTES)), "localhost"
    rest = address.removeprefix("http://")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if rest == address or host not in _LOOPBACK or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigFault(
            "policy_opa",
            "the OPA server must be on this host",
            fix="use unix:/path/to/socket or http://127.0.0.1:PORT",
        )
    return (lambda: asyncio.open_connection(host, int(port), limit=_HEAD_BYTES)), rest


def write_for_opa(bundle: Bundle, directory: Path) -> None:
    """Write what an OPA server needs (`opa run --server -b DIRECTORY`): the same rules, data and revision.

    directory: is created, and replaced when it exists.
    """
    if directory.exists():
        shutil.rmtree(directory)
    for path, source in bundle.modules.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source)
    (directory / "data.json").write_text(bundle.data_json)
    manifest = {"revision": bundle.revision, "roots": ["firewall", "config"], "rego_version": 1}
    (directory / ".manifest").write_bytes(orjson.dumps(manifest))
