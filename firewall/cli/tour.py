"""``bartizan tour``: a real agent's day, through the running demonstration, with the real client libraries.

It signs in as its own demo user (OAuth with a client id metadata document, PKCE, a resource
indicator and a scripted browser), uses the mcp, a2a-sdk, openai and anthropic clients, and prints what it did,
what the firewall decided and why. Exit 0 only if every step came out as it should.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from firewall.cli.arguments import Usage
from firewall.cli.browser import ScriptedBrowser
from firewall.cli.context import Node, NotRunning
from firewall.cli.up import demo_state

STEP_S = 30.0
AWS_STYLE_KEY = "AKIA" + "Z7QXRW3KPLM4TVOB"  # shaped like a key, belongs to nobody


@dataclass(slots=True)
class Step:
    """One row of the table."""

    name: str
    did: str = ""
    decided: str = ""
    why: str = ""
    ok: bool = False
    seconds: float = 0.0


class Unexpected(Exception):
    """A step came out otherwise than it should; the text says how."""


@dataclass
class Tour:
    """What the steps share."""

    facts: dict[str, Any]
    audit: Path
    stack: contextlib.AsyncExitStack
    statuses: list[tuple[str, int]] = field(default_factory=list)
    rows: list[Step] = field(default_factory=list)
    since_us: int = 0
    browser: ScriptedBrowser | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The firewall's public URL."""
        return str(self.facts["public_url"])

    # -- signing in -------------------------------------------------------------------------------

    def http(self, path: str, scope: str | None = None) -> Any:
        """Return an HTTP client that signs in for one resource when it is challenged."""
        import httpx2
        from mcp.client.auth import OAuthClientProvider, TokenStorage
        from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

        class Memory(TokenStorage):
            tokens: Any = None
            client: Any = None

            async def get_tokens(self) -> Any:
                return self.tokens

            async def set_tokens(self, tokens: Any) -> None:
                self.tokens = tokens

            async def get_client_info(self) -> Any:
                return self.client

            async def set_client_info(self, client_info: Any) -> None:
                self.client = client_info

        facts, landed = self.facts, {}

        async def redirect(url: str) -> None:
            if self.browser is None:
                # One browser for the whole tour: it signs in once and keeps its session, as a person's does.
                plain = await self.stack.enter_async_context(httpx2.AsyncClient(timeout=STEP_S))
                self.browser = ScriptedBrowser(plain, username=facts["user"], password=facts["password"])
            answer = await self.browser.visit(url, facts["redirect_uri"])
            if "code" not in answer:
                raise Unexpected(f"the sign-in was answered with {answer.get('error', 'no code')}")
            landed.update(answer)

        async def callback() -> Any:
            return AuthorizationCodeResult(code=landed["code"], state=landed.get("state"), iss=landed.get("iss"))

        auth = OAuthClientProvider(
            server_url=f"{self.url}{path}",
            client_metadata=OAuthClientMetadata(
                redirect_uris=[facts["redirect_uri"]],
                token_endpoint_auth_method="none",  # noqa: S106
                grant_types=["authorization_code", "refresh_token"],
                response_types=["code"],
                client_name="Bartizan tour",
                scope=scope,
            ),
            storage=Memory(),
            redirect_handler=redirect,
            callback_handler=callback,
            client_metadata_url=facts["client_id"],
        )

        async def note(response: Any) -> None:
            self.statuses.append((response.request.url.path, response.status_code))

        return httpx2.AsyncClient(auth=auth, timeout=STEP_S, event_hooks={"response": [note]})

    @contextlib.asynccontextmanager
    async def mcp(self, name: str, mode: str = "auto") -> AsyncIterator[Any]:
        """Connect the mcp SDK's client to one upstream's endpoint, signed in."""
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        async with self.http(f"/mcp/{name}") as http:
            transport = streamable_http_client(f"{self.url}/mcp/{name}", http_client=http)
            async with Client(transport, mode=mode, cache=None) as client:
                yield client

    async def token(self, path: str) -> str:
        """Sign in for a resource that is not MCP, as the mcp client would; return its token, which is kept."""
        if path not in self.tokens:
            self.tokens[path] = await self._sign_in(path)
        return self.tokens[path]

    async def _sign_in(self, path: str) -> str:
        http = self.http(path)
        async with http:
            await http.post(f"{self.url}{path}", json={})
            stored = await http.auth.context.storage.get_tokens()
        if stored is None:
            raise Unexpected(f"no token for {path}")
        return str(stored.access_token)

    # -- what the firewall said ------------------------------------------------------------------------

    def decisions(self, point: str) -> list[dict[str, Any]]:
        """Return the recorded decisions at a point since the step began, oldest first."""
        from firewall.record.show import show

        return [
            r
            for r in show(self.audit, since_us=self.since_us)
            if r.get("kind") == "decision" and r.get("point") == point
        ]

    def decided(self, point: str, effect: str, *rules: str) -> tuple[str, str]:
        """Return (effect, why) of the newest decision at a point. Raises Unexpected."""
        found = [r for r in self.decisions(point) if r.get("decision", {}).get("effect") == effect]
        found = [r for r in found if set(rules) <= set(r["decision"]["rules"])]
        if not found:
            seen = [
                (r.get("decision", {}).get("effect"), r.get("decision", {}).get("rules")) for r in self.decisions(point)
            ]
            raise Unexpected(f"no {effect} by {', '.join(rules) or 'policy'} at {point}; recorded: {seen[-3:]}")
        decision = found[-1]["decision"]
        named = [r for r in decision["rules"] if r in rules] or decision["rules"][:1]
        why = ", ".join(named) if named else "granted, nothing found"
        owasp = [o for o in decision["owasp"] if o.startswith("ASI")]
        return effect, why + (f" [{' '.join(owasp)}]" if owasp and named else "")


def _text(result: Any) -> str:
    return "\n".join(getattr(block, "text", "") for block in result.content)


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Unexpected(otherwise)


# -- the steps -------------------------------------------------------------------------------------------------


async def modern_call(tour: Tour, step: Step) -> None:
    """An allowed call in the modern era."""
    async with tour.mcp("time") as client:
        step.did = f"time/get_current_time, {client.protocol_version}, after OAuth with a metadata document"
        result = await client.call_tool("get_current_time", {"timezone": "Europe/Vienna"})
        _expect(not result.is_error and "Vienna" in _text(result), "the tool did not answer")
        _expect(client.protocol_version == "2026-07-28", "not the modern era")
    step.decided, step.why = tour.decided("mcp.tool.call", "allow")


async def legacy_call(tour: Tour, step: Step) -> None:
    """An allowed call in the legacy era."""
    async with tour.mcp("git", mode="legacy") as client:
        step.did = f"git/git_status, {client.protocol_version}, with a session"
        result = await client.call_tool("git_status", {"repo_path": tour.facts["repository"]})
        _expect(not result.is_error, f"the tool answered with an error: {_text(result)[:120]}")
        _expect(client.protocol_version < "2026", "not the legacy era")
    step.decided, step.why = tour.decided("mcp.tool.call", "allow")


async def step_up(tour: Tour, step: Step) -> None:
    """A missing scope, challenged and cured."""
    tour.statuses.clear()
    async with tour.mcp("notes") as client:
        step.did = "notes/write_note with notes:read only; then consent to notes:write"
        result = await client.call_tool("write_note", {"title": "tour", "text": "hello"})
        _expect(not result.is_error, f"the step-up did not help: {_text(result)[:120]}")
    _expect(("/mcp/notes", 403) in tour.statuses, "there was no 403 challenge")
    step.decided, step.why = tour.decided("mcp.tool.call", "deny", "identity.scope_missing")
    step.decided = "deny, then allow"


async def secret_stopped(tour: Tour, step: Step) -> None:
    """A credential in arguments."""
    step.did = "notes/write_note with an AWS-style key in its text"
    async with tour.mcp("notes") as client:
        await client.call_tool("write_note", {"title": "tour", "text": "consents to notes:write"})
        result = await client.call_tool("write_note", {"title": "tour", "text": f"the key is {AWS_STYLE_KEY}"})
        _expect(result.is_error and AWS_STYLE_KEY not in _text(result), "the key was let through")
    step.decided, step.why = tour.decided("mcp.tool.call", "deny", "content.secret_in_request")


async def private_address_stopped(tour: Tour, step: Step) -> None:
    """A metadata address in a fetch."""
    step.did = "fetch/fetch of http://169.254.169.254/latest/meta-data/"
    async with tour.mcp("fetch") as client:
        result = await client.call_tool("fetch", {"url": "http://169.254.169.254/latest/meta-data/"})
        _expect(result.is_error, "the address was let through")
    step.decided, step.why = tour.decided("mcp.tool.call", "deny", "content.private_address")


async def hidden_text_cleaned(tour: Tour, step: Step) -> None:
    """An instruction hidden in Unicode tag characters."""
    step.did = "notes/read_page whose text hides an instruction in tag characters"
    async with tour.mcp("notes") as client:
        result = await client.call_tool("read_page", {"name": "welcome"})
        text = _text(result)
        _expect(not result.is_error and text, "the page was not delivered")
        _expect(not any(0xE0000 <= ord(c) <= 0xE007F for c in text), "hidden characters came through")
    found = [r for r in tour.decisions("mcp.tool.result") if r["decision"]["effect"] == "transform"]
    _expect(found and "hidden_instructions" in found[-1].get("labels", []), "the caller was not labelled")
    step.decided, step.why = tour.decided("mcp.tool.result", "transform")
    step.why += "; caller labelled hidden_instructions"


async def flow_denied(tour: Tour, step: Step) -> None:
    """A call that policy denies: untrusted text was read, now something is to be destroyed."""
    step.did = "notes/delete_all after untrusted text was read"
    async with tour.mcp("notes") as client:
        await client.call_tool("write_note", {"title": "tour", "text": "consents to notes:write"})
        result = await client.call_tool("delete_all", {})
        _expect(result.is_error, "the call went through")
    refused = [r for r in tour.decisions("mcp.tool.call") if r.get("decision", {}).get("effect") in ("deny", "approve")]
    flow = [[rule for rule in r["decision"]["rules"] if rule.startswith("content.")] for r in refused]
    _expect(refused and flow[-1], f"no refusal by a flow rule is recorded: {[r['decision']['rules'] for r in refused]}")
    step.decided, step.why = tour.decided("mcp.tool.call", refused[-1]["decision"]["effect"], *flow[-1])


async def poisoned_tool(tour: Tour, step: Step) -> None:
    """A definition that changes after approval."""
    step.did = "notes changes a description into an instruction; list and call again"
    await _control(tour.facts["notes_control"], "poison")
    try:
        async with tour.mcp("notes") as client:
            names = await _until(client, lambda names: "list_notes" not in names)
            _expect("list_notes" not in names, "the changed tool is still listed")
            _expect("read_page" in names, "an unchanged tool disappeared")
            refused = await _refused(client.call_tool("list_notes", {}))
            _expect(refused, "the changed tool could be called")
        step.decided, step.why = tour.decided("mcp.tool.call", "deny", "tools.pin_changed")
        step.decided = "quarantined"
    finally:
        await _control(tour.facts["notes_control"], "restore")


async def agent_message(tour: Tour, step: Step) -> None:
    """A message to a signed agent."""
    step.did = "a2a-sdk client: card verified against our key, message sent, task answered"
    try:
        text = await _say(tour, "bring me a shrubbery")
    except Exception as error:
        if "403" not in str(error):
            raise
        raise Unexpected("its card is not the approved one: see `bartizan pins diff echo`, then approve it") from None
    _expect("shrubbery" in text, f"the agent did not answer: {text[:120]}")
    step.decided, step.why = tour.decided("a2a.message.send", "allow")


async def changed_card(tour: Tour, step: Step) -> None:
    """The same agent with a changed card."""
    step.did = "the agent's card changes and is signed again; message refused until approved"
    await _control(tour.facts["agent_control"], "change")
    try:
        until = time.monotonic() + STEP_S
        while not await _refused(_say(tour, "hello")):
            _expect(time.monotonic() < until, "the changed agent can still be called")
            await asyncio.sleep(0.5)
        # The client meets the refusal when it asks for the card, before it could send anything.
        step.decided, step.why = tour.decided("a2a.card.serve", "deny", "tools.pin_changed")
        step.decided = "quarantined"
    finally:
        await _control(tour.facts["agent_control"], "restore")


async def model_chat(tour: Tour, step: Step) -> None:
    """A streamed chat with a tool call."""
    from openai import AsyncOpenAI, AsyncStream

    step.did = "openai client, streamed, answered with a tool call"
    token = await tour.token("/v1/chat/completions")
    tool = {
        "type": "function",
        "function": {
            "name": "get_current_time",
            "description": "Returns the time.",
            "parameters": {"type": "object", "properties": {"timezone": {"type": "string"}}},
        },
    }
    async with AsyncOpenAI(base_url=f"{tour.url}/v1", api_key=token, max_retries=0, timeout=STEP_S) as client:
        stream = await client.chat.completions.create(
            model=tour.facts["model"],
            messages=[{"role": "user", "content": "What time is it in Vienna?"}],
            tools=[tool],  # type: ignore[list-item]
            stream=True,
        )
        _expect(isinstance(stream, AsyncStream), "it was not a stream")
        assert isinstance(stream, AsyncStream)
        name, arguments, chunks = "", "", 0
        async for chunk in stream:
            chunks += 1
            for choice in chunk.choices:
                for call in choice.delta.tool_calls or ():
                    if call.function is not None:
                        name += call.function.name or ""
                        arguments += call.function.arguments or ""
    _expect(name == "get_current_time" and isinstance(json.loads(arguments), dict), "no complete tool call arrived")
    _expect(chunks > 1, "it was not a stream")
    step.decided, step.why = tour.decided("llm.tool_call", "allow")


async def model_messages(tour: Tour, step: Step) -> None:
    """The same by the Messages API."""
    from anthropic import AsyncAnthropic

    step.did = "anthropic client, streamed, answered with a tool call"
    token = await tour.token("/v1/chat/completions")  # one resource, one token
    async with AsyncAnthropic(base_url=tour.url, api_key=token, max_retries=0, timeout=STEP_S) as client:
        async with client.messages.stream(
            model=tour.facts["messages_model"],
            max_tokens=500,
            messages=[{"role": "user", "content": "What time is it in Vienna?"}],
            tools=[
                {
                    "name": "get_current_time",
                    "description": "Returns the time.",
                    "input_schema": {"type": "object", "properties": {"timezone": {"type": "string"}}},
                }
            ],
        ) as stream:
            said = await stream.get_final_message()
    called = [block for block in said.content if block.type == "tool_use"]
    _expect(bool(called) and called[0].name == "get_current_time", "no complete tool call arrived")
    step.decided, step.why = tour.decided("llm.tool_call", "allow")


async def audit_verified(tour: Tour, step: Step) -> None:
    """The audit chain."""
    from firewall.record.verify import verify

    report = verify(tour.audit, tour.facts["audit_vkeys"])
    step.did = f"every record, proof and checkpoint of {tour.audit.name}/ checked offline"
    _expect(report.ok, f"the log does not verify: {report}")
    step.decided, step.why = "verified", f"{report.records} records"


STEPS: tuple[tuple[str, Callable[[Tour, Step], Awaitable[None]]], ...] = (
    ("tool call, modern era", modern_call),
    ("tool call, legacy era", legacy_call),
    ("missing scope, step-up", step_up),
    ("secret in arguments", secret_stopped),
    ("private address in a fetch", private_address_stopped),
    ("hidden instruction in a result", hidden_text_cleaned),
    ("denied by policy", flow_denied),
    ("poisoned tool definition", poisoned_tool),
    ("message to a signed agent", agent_message),
    ("agent with a changed card", changed_card),
    ("LLM chat, streamed, tool call", model_chat),
    ("LLM messages, streamed, call", model_messages),
    ("audit chain", audit_verified),
)


# -- helpers -----------------------------------------------------------------------------------------------------


async def _say(tour: Tour, text: str) -> str:
    """Send a message to the echo agent through the firewall with the a2a-sdk client; return its text."""
    import httpx
    from a2a.client import ClientConfig, create_client
    from a2a.helpers.proto_helpers import get_artifact_text, get_message_text, new_text_message
    from a2a.types import Role, SendMessageRequest

    token = await tour.token("/a2a/echo")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=STEP_S) as http:
        client = await create_client(f"{tour.url}/a2a/echo", ClientConfig(httpx_client=http))
        said: list[str] = []
        async for event in client.send_message(SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER))):
            which = event.WhichOneof("payload")
            if which == "message":
                said.append(get_message_text(event.message))
            elif which == "task":
                said.extend(get_artifact_text(a) for a in event.task.artifacts)
            elif which == "artifact_update":
                said.append(get_artifact_text(event.artifact_update.artifact))
        return " ".join(said)


async def _refused(call: Awaitable[Any]) -> bool:
    """Return whether a call ended in an error of its protocol."""
    try:
        result = await call
    except Exception:  # noqa: BLE001  three SDKs, three trees of exceptions; any of them is a refusal here
        return True
    return bool(getattr(result, "is_error", False))


async def _until(client: Any, met: Callable[[set[str]], bool]) -> set[str]:
    """List tools until a condition holds, at most ten seconds."""
    until = time.monotonic() + 10
    while True:
        names = {tool.name for tool in (await client.list_tools()).tools}
        if met(names) or time.monotonic() > until:
            return names
        await asyncio.sleep(0.5)


async def _control(url: str, verb: str) -> None:
    """Tell a demonstration server how to behave."""
    import httpx

    async with httpx.AsyncClient(timeout=5) as http:
        (await http.post(f"{url}/{verb}")).raise_for_status()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--only", default="", help="run only the steps whose name contains this text")


def run(given: argparse.Namespace) -> int:
    """Walk the tour; return 0 only if every step came out as it should."""
    state = demo_state(given)
    if not any(given.only in name for name, _ in STEPS):
        raise Usage("tour_step", "no step has this in its name", fix="one of: " + "; ".join(name for name, _ in STEPS))
    told = state / "demo.json"
    if not (told.is_file() and Node(given).running()):  # the file outlives its node
        raise NotRunning(
            "tour_not_running", f"{state}: no demonstration is running", fix="run `make run` (or `bartizan up`) first"
        )
    facts = json.loads(told.read_text())
    logging.disable(logging.CRITICAL)
    rows = asyncio.run(_walk(facts, state / "audit", given))
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    good = bool(rows) and all(row.ok for row in rows)
    if not given.json:
        total = sum(row.seconds for row in rows)
        passed = sum(row.ok for row in rows)
        print(f"\n{passed} of {len(rows)} steps came out as they should, in {total:.1f} s.")
    return 0 if good else 1


async def _walk(facts: dict[str, Any], audit: Path, given: argparse.Namespace) -> list[Step]:
    rows: list[Step] = []
    async with contextlib.AsyncExitStack() as stack:
        tour = Tour(facts, audit, stack)
        for number, (name, walk) in enumerate(STEPS, 1):
            if given.only not in name:
                continue
            step = Step(name)
            started = time.monotonic()
            tour.since_us = time.time_ns() // 1000
            if sys.stderr.isatty() and not given.json:
                print(f"{number:2} {name} …", end="\r", file=sys.stderr, flush=True)
            try:
                await asyncio.wait_for(walk(tour, step), STEP_S * 2)
                step.ok = True
            except Exception as error:  # noqa: BLE001  whatever failed is a row of the table, not a traceback
                step.decided, step.why = "NOT AS IT SHOULD", _innermost(error)
            step.seconds = time.monotonic() - started
            rows.append(step)
            if not given.json:
                _print(number, step)
    return rows


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    told = (str(error).splitlines() or [""])[0][:300]
    return told if isinstance(error, Unexpected) else f"{type(error).__name__}: {told}"


def _print(number: int, step: Step) -> None:
    print(f"{number:2} {'ok ' if step.ok else 'NOT'} {step.name}")
    print(f"       did      {step.did}")
    print(f"       decided  {step.decided}: {step.why}", flush=True)
