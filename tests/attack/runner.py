"""Runs one attack case through the whole firewall: its steps, then what came of them.

A case is data (``cases/*.yaml``):

    id, about                what it is
    controls, owasp          what it proves; where a policy rule is expected, its record names these OWASP ids
    protocol                 mcp | a2a | llm
    server                   the upstream's script; ``spec`` in it goes to the registry
    attack                   one ask, or a list of steps; each overrides a good request
    expect                   what comes of the last step
    twin                     {server, attack, expect}: the same without the malice, or with the control off.
                             By default a good request that passes; it is what makes the case able to fail.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from joserfc.jwk import ECKey

from tests.attack.words import fill
from tests.support.composed import BOTH, Answer, Composed, modern, raw_exchange, request_bytes
from tests.support.world import ECHO, LLMScript, World, tool

CASES = Path(__file__).parent / "cases"
STRANGER = ECKey.generate_key("P-256", private=True)
# The model provider is configured once; MCP servers and agents are registered per case.
MODEL = "small"
CLAUDE = "small-messages"  # the same provider by the other protocol: an ask with ``api: messages``


@dataclass(frozen=True)
class Case:
    """One entry of the attack files."""

    id: str
    about: str
    controls: tuple[str, ...]
    owasp: tuple[str, ...]
    protocol: str
    body: dict[str, Any] = field(compare=False)

    def half(self, twin: bool) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
        """Return (server, steps, expect) of the attack or of its twin."""
        given = self.body["twin"] if twin else self.body
        assert given is not None, f"{self.id} has no twin"
        server = given.get("server", {} if twin and given.get("plain") else self.body.get("server", {}))
        steps = given.get("attack", {})
        expect = given.get("expect") or {"ok": True, "forwarded": 1, "status": 200}
        return server, steps if isinstance(steps, list) else [steps], expect


def load() -> list[Case]:
    """Return every case; ids are unique, every case has a twin."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reads the same, many times as fast
    found: list[Case] = []
    for path in sorted(CASES.glob("*.yaml")):
        for raw in yaml.load(path.read_text(), Loader=loader):
            body = {"twin": {}, **raw}
            found.append(
                Case(raw["id"], raw["about"], tuple(raw["controls"]), tuple(raw["owasp"]), raw["protocol"], body)
            )
    assert len({case.id for case in found}) == len(found), "an id stands twice"
    return found


@dataclass
class Run:
    """One half of a case on its way."""

    wall: Composed
    world: World
    case: Case
    name: str
    twin: bool
    tokens: list[str] = field(default_factory=list)

    async def go(self) -> None:
        """Set the upstream up, take every step, check the expectations."""
        server, steps, expect = self.case.half(self.twin)
        names = {
            "server": self.name,
            "origin": self.world.origin,
            "url": self.wall.url,
            "host": self.wall.url.split("//")[1],
        }
        self._serve(fill(server, names))
        before = len(self.world.seen)  # what other cases sent is theirs
        answer: Answer | None = None
        since = calls = 0
        for number, step in enumerate(fill(steps, names)):
            if "do" in step:
                self._do(step)
                continue
            since, calls = len(self.wall.records()), len(self.world.calls())
            answer = await self._ask(step, number)
            for token in self.tokens:
                assert token not in answer.text, "the caller's token came back"
            if "expect" in step:
                self._check(answer, step["expect"], since, calls)
        assert answer is not None
        self._check(answer, fill(expect, names), since, calls)
        inside, self.wall.faults[:] = [detail for _, detail in self.wall.faults], []
        assert inside == ([expect["inside"]] if "inside" in expect else []), "something failed inside"
        for seen in self.world.seen[before:]:
            sent = seen.raw + repr(seen.headers).encode()
            assert not any(token.encode() in sent for token in self.tokens), "the caller's token went upstream"

    # -- the upstream ------------------------------------------------------------------------------------

    def _serve(self, server: dict[str, Any]) -> None:
        given = dict(server)
        spec = given.pop("spec", {})
        # One model serves all cases: what an earlier one made it answer must not last.
        self.world.llm[MODEL] = LLMScript(**_bytes(given)) if self.case.protocol == "llm" else LLMScript()
        if self.case.protocol == "llm":
            return
        if self.case.protocol == "a2a":
            script = self.world.add_a2a(self.name, **given)
            keys = None if spec.pop("unpinned", False) else script.agent.jwks()
            card = f"{self.world.origin}/a2a/{self.name}/.well-known/agent-card.json"
            entry = {
                "card_url": spec.pop("card_url", card),
                "keys": keys,
                "network": "loopback",
                "tenants": ["default"],
            }
            self.wall.worker.registry.register("default", "a2a", self.name, {**entry, **spec}, by="test")
            self.wall.worker.registry.approve("default", "a2a", self.name, by="test")
            self.wall.worker.refresh()
        else:
            url = self.world.add_mcp(self.name, **_mcp_script(given))
            spec = {"trust": "trusted", "tools": {"echo": "read"}, **spec}
            self.wall.register(self.name, spec.pop("url", url), approve=spec.pop("approve", True), **spec)

    def _do(self, step: dict[str, Any]) -> None:
        registry, tenant = self.wall.worker.registry, "default"
        kind: Any = "a2a" if self.case.protocol == "a2a" else "mcp"
        match step["do"]:
            case "define":  # the upstream changes its mind; its catalogue is read again
                script = _mcp_script({k: v for k, v in step.items() if k != "do"})
                for name, value in script.items():
                    setattr(self.world.mcp[self.name], name, value)
                self.wall.worker.mcp.inventory.forget(self.name)
            case "card":
                self.world.a2a[self.name].form = step["form"]
                self.wall.worker.parts["agents"]._seen[self.name].at_ns = -1  # as if its time were over
            case "suspend" | "revoke" | "approve" as verb:
                getattr(registry, verb)(tenant, kind, self.name, by="test")
            case "approve-definition":
                pins = self.wall.worker.pins
                for row in [r for r in pins.list(tenant, self.name) if r.name == step["name"]]:
                    pins.approve(tenant, self.name, row.kind, row.name, row.seen, by="test")
            case "kill":
                self.wall.worker.kill_switch.pull(tenant, step["scope"], step.get("name", self.name), by="test")
            case "release":
                self.wall.worker.kill_switch.release(tenant, step["scope"], step.get("name", self.name))
            case "revoke-grant":
                subject = f"u_{self.name}"
                self.wall.worker.identity.grants.revoke(tenant, subject, f"g_{subject}", reason="test")
            case other:
                raise AssertionError(f"unknown step {other}")

    # -- the request --------------------------------------------------------------------------------------

    async def _ask(self, ask: dict[str, Any], number: int) -> Answer:
        protocol = ask.get("protocol", self.case.protocol)
        path, body, headers = getattr(self, f"_{protocol}")(ask, number)
        target = ask.get("target", path)
        headers.update({k: str(v) for k, v in ask.get("headers", {}).items() if v is not None})
        for name in [k for k, v in ask.get("headers", {}).items() if v is None]:
            headers.pop(name, None)
        credential = self._token(ask, path, protocol)
        if credential:
            headers["authorization"] = credential
        pairs = [*headers.items(), *[(str(k), str(v)) for k, v in ask.get("extra", [])]]
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        if "body" in ask:
            data = ask["body"].encode()
        sent = request_bytes(target, f"127.0.0.1:{self.wall.port}", pairs, data, verb=ask.get("verb", "POST"))
        return await raw_exchange(self.wall.port, sent)

    def _mcp(self, ask: dict[str, Any], _number: int) -> tuple[str, Any, dict[str, str]]:
        method = ask.get("method", "tools/call")
        params = dict(ask.get("params", {}))
        if method == "tools/call" and "params" not in ask:
            params = {"name": ask.get("tool", "echo"), "arguments": ask.get("arguments", {"text": "hello"})}
        path = ask.get("path", f"/mcp/{self.name}")
        if ask.get("era") == "legacy":
            body = {"jsonrpc": "2.0", "id": ask.get("id", 1), "method": method, "params": params}
            return path, body, {"content-type": "application/json", "accept": BOTH}
        body, headers = modern(method, params, rpc_id=ask.get("id", 1))
        if "name" in params and not str(params["name"]).isascii():
            headers["mcp-name"] = f"=?base64?{base64.b64encode(params['name'].encode()).decode()}?="
        return path, body, headers

    def _a2a(self, ask: dict[str, Any], number: int) -> tuple[str, Any, dict[str, str]]:
        method = ask.get("method", "SendMessage")
        message = {
            "messageId": f"m-{self.name}-{number}",
            "role": "ROLE_USER",
            "parts": ask.get("parts", [{"text": ask.get("text", "hello")}]),
            **ask.get("message", {}),
        }
        params = ask.get("params", {"message": message})
        body = {"jsonrpc": "2.0", "id": ask.get("id", 1), "method": method, "params": params}
        accept = "text/event-stream" if method == "SendStreamingMessage" else "application/json"
        headers = {"content-type": "application/json", "a2a-version": "1.0", "accept": accept}
        return ask.get("path", f"/a2a/{ask.get('agent', self.name)}"), body, headers

    def _llm(self, ask: dict[str, Any], _number: int) -> tuple[str, Any, dict[str, str]]:
        messages = ask.get("messages", [{"role": "user", "content": ask.get("text", "hello")}])
        if ask.get("api") == "messages":
            body = {"model": CLAUDE, "max_tokens": 50, "messages": messages, **ask.get("more", {})}
            return ask.get("path", "/v1/messages"), body, {"content-type": "application/json"}
        body = {"model": MODEL, "messages": messages, **ask.get("more", {})}
        return ask.get("path", "/v1/chat/completions"), body, {"content-type": "application/json"}

    # -- tokens -------------------------------------------------------------------------------------------

    def _token(self, ask: dict[str, Any], path: str, protocol: str) -> str:
        """Return the Authorization value of an ask, "" for none."""
        kind = ask.get("token", "good")
        if kind == "none":
            return ""
        resource = ask.get("resource", {"llm": "/v1"}.get(protocol, path.partition("?")[0]))
        held = {"a2a": ["send"], "mcp": ["read", "write"]}.get(protocol, [])
        scopes = ask.get("scopes", [f"{self.name}:{right}" for right in held] or ["llm:invoke"])
        subject = ask.get("sub", f"u_{self.name}")
        who = {"sub": subject, "client_id": ask.get("client", "app"), **ask.get("claims", {})}
        now = int(time.time())
        changes: dict[str, dict[str, Any]] = {
            "good": {},
            "expired": {"iat": now - 600, "exp": now - 120},
            "not-yet": {"iat": now + 600, "nbf": now + 600, "exp": now + 900},
            "stranger": {"key": STRANGER},
            "unknown-kid": {"key": STRANGER, "kid": "another"},
            "wrong-type": {"typ": "JWT"},
            "other-issuer": {"iss": "https://as.elsewhere.example"},
            "other-tenant": {"tenant": "rival"},
            "bound": {"cnf": {"jkt": "A" * 43}},
            "no-grant": {"gid": None},
            "audience-list": {"aud": [f"{self.wall.url}{resource}", f"{self.wall.url}/mcp"]},
        }
        token = self.wall.mint(resource, *scopes, **who, **changes.get(kind, {}))
        if kind == "alg-none":
            token = f"{_b64({'alg': 'none', 'typ': 'at+jwt'})}.{token.split('.')[1]}."
        elif kind == "hs256":
            token = self._hs256(token)
        elif kind == "garbage":
            token = "no-token-at-all-but-long-enough-to-be-one"
        elif kind == "tampered":
            head, _, signature = token.split(".")
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            token = f"{head}.{_b64({**claims, 'scope': 'everything:write'})}.{signature}"
        self.tokens.append(token)
        return f"{ask.get('scheme', 'Bearer')} {token}"

    def _hs256(self, token: str) -> str:
        """Sign with the published public key as if it were a shared secret."""
        own = self.wall.worker.parts["keys"].ec_signing_key("as")
        public = ECKey.import_key(own)
        kid = public.thumbprint()
        signed = f"{_b64({'alg': 'HS256', 'typ': 'at+jwt', 'kid': kid})}.{token.split('.')[1]}"
        mac = hmac.new(public.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    # -- what came of it -------------------------------------------------------------------------------------

    def _check(self, answer: Answer, expect: dict[str, Any], since: int, calls: int) -> None:
        told = f"{answer.status} {answer.body[:600]!r}"
        known = {"status", "rpc", "ok", "tool_error", "header", "forwarded", "rule", "labels", "absent", "present"}
        known |= {"upstream_absent", "upstream_present", "tools", "fault", "inside", "unlabelled"}
        assert set(expect) <= known, set(expect) - known
        if "status" in expect:
            assert answer.status == expect["status"], told
        if "rpc" in expect:
            assert answer.json["error"]["code"] == expect["rpc"], told
        if expect.get("ok"):
            result = answer.json.get("result", answer.json)
            assert "error" not in answer.json, told
            assert not (isinstance(result, dict) and result.get("isError")), told
        if expect.get("tool_error"):
            result = answer.json["result"]
            assert result["isError"] is True, told
            assert "decision d_" in result["content"][0]["text"], told
        for name, part in expect.get("header", {}).items():
            assert part in answer.header(name), f"{name}: {answer.header(name)}"
        for text in expect.get("absent", []):
            assert text not in answer.text, told
        for text in expect.get("present", []):
            assert text in answer.body.decode(), told
        if "tools" in expect:
            assert [t["name"] for t in answer.json["result"]["tools"]] == expect["tools"], told
        self._check_upstream(expect, calls)
        self._check_records(expect, since, told)

    def _check_upstream(self, expect: dict[str, Any], calls: int) -> None:
        went = self.world.calls()[calls:]
        if "forwarded" in expect:
            assert len(went) == expect["forwarded"], [s.raw for s in went]
        sent = b"".join(s.raw + repr(s.headers).encode() for s in went).decode("utf-8", "replace")
        for text in expect.get("upstream_absent", []):
            assert text not in sent, sent
        for text in expect.get("upstream_present", []):
            assert text in sent, sent

    def _check_records(self, expect: dict[str, Any], since: int, told: str) -> None:
        if not {"rule", "labels", "fault", "unlabelled"} & set(expect):
            return
        every = self.wall.exchange_records(since)
        records = [r for r in every if r["subject"] != "bartizan"]
        if "rule" in expect:
            rules = {rule for r in every for rule in r.get("decision", {}).get("rules", [])}
            assert expect["rule"] in rules, f"{rules}; {told}"
            ids = {o for r in every for o in r.get("decision", {}).get("owasp", [])}
            assert set(self.case.owasp) <= ids, f"the record names {sorted(ids)}"
        if "labels" in expect:
            assert set(expect["labels"]) <= {mark for r in records for mark in r.get("labels", [])}, records
        if expect.get("unlabelled"):
            assert records
            assert not any(r.get("labels") for r in records[:1]), records
        if "fault" in expect:
            assert expect["fault"] in {r.get("fault") for r in records}, records


def _mcp_script(given: dict[str, Any]) -> dict[str, Any]:
    """Tools may be written short: {name, strings: [..], ...}; ``text`` is a result of one text block."""
    out = dict(given)
    if "tools" in out:
        out["tools"] = [_tool(entry) for entry in out["tools"]]
    out = _bytes(out)
    if "text" in out:
        out["answer"] = {"content": [{"type": "text", "text": out.pop("text")}]}
    return out


def _bytes(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v.encode() if k == "raw" else v for k, v in given.items()}


def _tool(entry: Any) -> Any:
    if entry == "echo":
        return ECHO
    if not isinstance(entry, dict) or "inputSchema" in entry:
        return entry
    more = dict(entry)
    return tool(more.pop("name"), *more.pop("strings", []), **more)


def _b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
