"""The stdio face: a client that started us speaks lines, and each becomes a call of the ordinary endpoint.

    stdin line ─▶ POST to the gateway in this process ─▶ its answer or its events ─▶ stdout lines

There is no second road: the endpoint authenticates, parses, decides and records a line as it does a
request from the network. What HTTP carries in headers, the face makes from the message itself, as an
HTTP client would: revision, method, name, mirrored parameters; and the legacy session id, which a
pipe has no place for. It reads messages to do that, and forwards the bytes as they came.

Differences of the transports, bridged here (MCP, transports, stdio):
- a cancelled modern request is a notification on a pipe and a closed stream over HTTP;
- what a server says unasked comes on the GET stream of a legacy session, and is a line;
- a client that sends faster than it is answered is not read for a while: the pipe holds it back;
- an error that answers no request is told to nobody on a pipe, unless the line could not be read at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from firewall.core.bounds import KIB
from firewall.core.errors import BartizanError, Malformed, fault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.net.asgi import App
from firewall.net.inprocess import Reply, Write, ask
from firewall.net.pipes import TOO_LONG
from firewall.net.runtime import Tasks
from firewall.wire import jsonrpc, strict_json
from mcp_gateway import headers as h
from mcp_gateway.message import NAMED, PROTOCOL_VERSION, RpcId
from mcp_gateway.versions import NEWEST_HANDSHAKE, NEWEST_MODERN

REQUESTS: Final = 256  # at once; a client that asks more is told to wait
LINES: Final = 2 * REQUESTS  # under way at once, answers and notifications with them; beyond it we do not read
EARLY_BYTES: Final = 8 * 1024 * KIB  # of lines that wait for ``initialize`` to be answered; the same
END_S: Final = 0.8  # for requests under way when the client closes our stdin
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
LIST_PAGES: Final = 100

Key = tuple[type, RpcId]


class StdioFace:
    """One client on a pipe. `run` serves it until it closes our stdin.

    app: the gateway (or its edge). path: of the endpoint. host, token: what the endpoint expects.
    lines: what the client writes, without line ends. write: sends it one line; raises OSError when it is gone.
    """

    def __init__(
        self,
        app: App,
        *,
        path: str,
        host: str,
        token: str,
        lines: AsyncIterator[bytes],
        write: Write,
        tasks: Tasks,
    ) -> None:
        self._app = app
        self._path = path
        self._fixed = [
            (b"host", host.encode("ascii")),
            (b"authorization", b"Bearer " + token.encode("ascii")),
            (b"accept", b"application/json, text/event-stream"),
        ]
        self._lines = lines
        self._write = write
        self._tasks = tasks
        self._running: dict[Key, Reply] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(LINES)
        self._early = 0  # bytes of lines that came while ``initialize`` was under way
        self._gone = asyncio.Event()
        # Legacy: one session for the life of the pipe, made again where it ended without the client's doing.
        self._session = b""
        self._version = ""
        self._opening: bytes = b""
        self._opened = asyncio.Event()
        self._opened.set()
        self._renewing = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._mirrors: dict[str, h.ParamMap] = {}

    async def run(self) -> None:
        """Serve until the client closes its end or no longer reads ours."""
        reading = self._tasks.spawn(self._read(), "mcp.face.read")
        lost = self._tasks.spawn(self._gone.wait(), "mcp.face.lost")
        try:
            await asyncio.wait((reading, lost), return_when=asyncio.FIRST_COMPLETED)
            if not self._gone.is_set():
                await self._settle()
        finally:
            self._gone.set()
            for task in (reading, lost, *self._working, *([self._listener] if self._listener else [])):
                task.cancel()
            await asyncio.gather(reading, lost, *self._working, return_exceptions=True)
            await self._end_session()

    async def _read(self) -> None:
        async for line in self._lines:
            if line is TOO_LONG:
                await self._tell(_error(None, "body_too_large"))
                continue
            if not self._opened.is_set():
                self._early += len(line)
                if self._early > EARLY_BYTES:
                    await self._opened.wait()
            await self._room.acquire()
            task = self._tasks.spawn(self._take(line), "mcp.face.line")
            self._working.add(task)
            task.add_done_callback(self._done)
            await asyncio.sleep(0)  # lines are taken in their order: each has begun before the next is read

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._room.release()

    async def _settle(self) -> None:
        """Let what is under way end; a client that closes our stdin may still read its answers."""
        until = asyncio.get_running_loop().time() + END_S
        pending = {task for task in self._working if not task.done()}
        if pending:
            await asyncio.wait(pending, timeout=max(0.0, until - asyncio.get_running_loop().time()))

    # -- one line -------------------------------------------------------------------------------------------

    async def _take(self, line: bytes) -> None:
        try:
            value: JSON = strict_json.loads(line)
        except Malformed:
            value = None  # the endpoint says why, and records it
        message = value if isinstance(value, dict) else {}
        method = message.get("method")
        key = _key(message) if isinstance(method, str) else None
        try:
            if method == "initialize" and key is not None:
                await self._open(line, key)
            elif method == "notifications/cancelled" and self._leave(message):
                pass
            else:
                await self._opened.wait()
                await self._carry(line, message, key, silent=_expects_nothing(message))
        except BartizanError as error:
            if key is not None:
                await self._tell(_error(key[1], error.code))
        except OSError:
            self._gone.set()
        except Exception:  # noqa: BLE001  a client must not wait for ever for what failed here
            if key is not None:
                await self._tell(_error(key[1], "internal"))

    async def _open(self, line: bytes, key: Key) -> None:
        """``initialize``: keep the session that it opens; what follows waits for it."""
        self._opened.clear()
        self._early = 0
        try:
            reply = await self._post(line, [], key, self._tell)
            self._adopt(line, reply)
            if reply.plain:
                await self._tell(bytes(reply.plain))
        finally:
            self._opened.set()
        if self._session and self._listener is None:
            self._listener = self._tasks.spawn(self._listen(), "mcp.face.listen")

    def _adopt(self, line: bytes, reply: Reply) -> None:
        session = reply.headers.get(h.SESSION, b"")
        if not session:
            return
        self._session, self._opening = session, line
        self._version = reply.headers.get(h.VERSION, b"").decode("latin-1") or _negotiated(reply) or NEWEST_HANDSHAKE

    def _leave(self, message: JSONObject) -> bool:
        """End the modern request that a cancellation names: over HTTP, leaving its stream is what cancels it."""
        if self._session:
            return False
        params = message.get("params")
        target = params.get("requestId") if isinstance(params, dict) else None
        reply = self._running.get(_id_key(target)) if isinstance(target, (str, int)) else None
        if reply is not None:
            reply.left.set()
        return reply is not None

    async def _carry(self, line: bytes, message: JSONObject, key: Key | None, *, silent: bool) -> None:
        if key is not None and (len(self._running) >= REQUESTS or key in self._running):
            await self._tell(_error(key[1], "rpc_id" if key in self._running else "over_limit"))
            return
        modern, before = _modern(message), self._session
        reply = await self._post(line, await self._headers(message, modern), key, self._tell)
        if before and not modern and reply.status == 404 and await self._renew(before):
            # The session had ended without the client's doing (its time, a restart): it is open again, so ask again.
            reply = await self._post(line, await self._headers(message, modern), key, self._tell)
        if reply.plain and not silent and not reply.left.is_set():
            await self._tell(bytes(reply.plain))

    async def _headers(self, message: JSONObject, modern: str) -> list[tuple[bytes, bytes]]:
        method = message.get("method")
        if not modern:
            if self._session:
                return [(h.SESSION, self._session), (h.VERSION, self._version.encode("latin-1"))]
            if not isinstance(method, str) or "id" in message:
                return []
            modern = NEWEST_MODERN  # a notification names no revision: without a session it is a modern client's
        made = [(h.VERSION, h.encode(modern))]
        if not isinstance(method, str):
            return made
        made.append((h.METHOD, h.encode(method)))
        params = message.get("params")
        named = params.get(NAMED.get(method, "")) if isinstance(params, dict) else None
        if isinstance(params, dict) and isinstance(named, str):
            made.append((h.NAME, h.encode(named)))
            arguments = params.get("arguments")
            if method == "tools/call" and isinstance(arguments, dict) and arguments:
                made += h.param_headers(await self._params_of(named, modern), arguments)
        return made

    async def _params_of(self, tool: str, version: str) -> h.ParamMap:
        """Return which arguments of a tool HTTP mirrors as headers; its list says so (SEP-2243)."""
        if tool not in self._mirrors:
            cursor: JSON = None
            for _ in range(LIST_PAGES):
                meta: JSONObject = {PROTOCOL_VERSION: version, "io.modelcontextprotocol/clientCapabilities": {}}
                params: JSONObject = {"_meta": meta, **({"cursor": cursor} if cursor else {})}
                line = strict_json.dumps(jsonrpc.build_request("bartizan-mirrors", "tools/list", params))
                headers = [(h.VERSION, h.encode(version)), (h.METHOD, b"tools/list")]
                cursor = self._learn((await self._post(line, headers, None, _drop)).answer)
                if not cursor:
                    break
        return self._mirrors.get(tool, {})

    def _learn(self, data: bytes) -> JSON:
        """Note the mirrored parameters of a page of tools; return its cursor."""
        try:
            value = strict_json.loads(data)
        except Malformed:
            return None
        result = value.get("result") if isinstance(value, dict) else None
        tools = result.get("tools") if isinstance(result, dict) else None
        for tool in tools if isinstance(tools, list) else []:
            if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                with contextlib.suppress(Malformed):
                    self._mirrors[str(tool["name"])] = h.param_map(tool.get("inputSchema"))
        return result.get("nextCursor") if isinstance(result, dict) else None

    # -- the endpoint ---------------------------------------------------------------------------------------------

    async def _post(self, line: bytes, headers: list[tuple[bytes, bytes]], key: Key | None, sink: Write) -> Reply:
        """Send one message; events go to ``sink`` as they come, a plain answer is left in the reply."""
        reply = Reply(line)
        if key is not None:
            self._running[key] = reply
        content = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(line))]
        try:
            await self._ask("POST", [*content, *headers], reply, sink)
        finally:
            if key is not None:
                self._running.pop(key, None)
        return reply

    async def _ask(self, verb: str, headers: list[tuple[bytes, bytes]], reply: Reply, sink: Write) -> None:
        await ask(self._app, verb, self._path, [*self._fixed, *headers], reply, sink)

    async def _tell(self, data: bytes) -> None:
        """Write one message to the client. Raises OSError."""
        if b"list_changed" in data:
            self._mirrors.clear()
        # What our encoder makes holds no line end; between tokens one would mean the same as a space.
        await self._write(data.replace(b"\r", b" ").replace(b"\n", b" "))

    # -- legacy sessions --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Follow the session's GET stream, so that what the server says unasked arrives; resume it where it broke."""
        last, pause_s = "", RETRY_FIRST_S
        while not self._gone.is_set():
            reply = Reply(b"")
            session = self._session
            headers = [(h.SESSION, session), (h.VERSION, self._version.encode("latin-1"))]
            if last:
                headers.append((b"last-event-id", last.encode("latin-1", "ignore")))
            try:
                await self._ask("GET", headers, reply, self._tell)
            except OSError:
                self._gone.set()
                return
            if reply.status == 405:
                return
            last = reply.event_id if session == self._session and reply.status == 200 else ""
            pause_s = RETRY_FIRST_S if reply.status == 200 else min(RETRY_MAX_S, pause_s * 2)
            await asyncio.sleep(max(pause_s, min(reply.retry_s, RETRY_MAX_S)))

    async def _renew(self, ended: bytes) -> bool:
        """Open the session again as the client did; return whether there is one."""
        async with self._renewing:
            if self._session != ended:
                return True  # another line's task did it meanwhile
            reply = await self._post(self._opening, [], None, _drop)
            self._adopt(self._opening, reply)
            if self._session == ended:
                return False
            note = strict_json.dumps(jsonrpc.build_notification("notifications/initialized"))
            await self._post(note, await self._headers({}, ""), None, _drop)
            return True

    async def _end_session(self) -> None:
        if not self._session:
            return
        reply = Reply(b"")
        headers = [(h.SESSION, self._session), (h.VERSION, self._version.encode("latin-1"))]
        with contextlib.suppress(BartizanError, OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(0.2):
                await self._ask("DELETE", headers, reply, _drop)


async def _drop(_data: bytes) -> None:
    """Take what no client asked for."""


def _negotiated(reply: Reply) -> str:
    """Return the revision that the answer to ``initialize`` names."""
    try:
        value = strict_json.loads(reply.answer)
    except Malformed:
        return ""
    result = value.get("result") if isinstance(value, dict) else None
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    return version if isinstance(version, str) and version.isascii() else ""


def _modern(message: JSONObject) -> str:
    """Return the revision of a message's envelope, "" where it has none."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(PROTOCOL_VERSION) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else ""


def _expects_nothing(message: JSONObject) -> bool:
    """Return whether a message is a notification or a response, which are never answered (JSON-RPC 2.0, 4.1)."""
    if "method" in message:
        return "id" not in message
    return "result" in message or "error" in message


def _key(message: JSONObject) -> Key | None:
    rpc_id = message.get("id")
    return _id_key(rpc_id) if isinstance(rpc_id, (str, int)) and not isinstance(rpc_id, bool) else None


def _id_key(rpc_id: RpcId) -> Key:
    """Tell 1 from "1"."""
    return (type(rpc_id), rpc_id)


def _error(rpc_id: RpcId | None, code: str) -> bytes:
    told = fault(code)
    return strict_json.dumps(jsonrpc.build_error(rpc_id, told.rpc_code, told.text))
