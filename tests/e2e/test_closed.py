"""Closed on failure: no record, no decision, no state means that nothing is forwarded. And: same policy, same decision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from firewall.core.errors import AuditUnavailable, PolicyFault, StateUnavailable
from firewall.decide import bundle
from tests.attack.runner import CLAUDE, MODEL, Case, Run, load
from tests.invariants.conftest import house_config
from tests.support.composed import Answer, Composed, composed, settings
from tests.support.opa import OpaProcess, start_opa
from tests.support.world import LLMScript, World, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def ask_all(wall: Composed) -> list[Answer]:
    """Ask once over each protocol."""
    message = {"messageId": os.urandom(4).hex(), "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    headers = {"a2a-version": "1.0", "accept": "application/json"}
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    llm = wall.mint("/v1", "llm:invoke")
    return [
        await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read")),
        await wall.post("/a2a/agent", sent, token=wall.mint("/a2a/agent", "agent:send"), headers=headers),
        await wall.post("/v1/chat/completions", chat, token=llm),
        await wall.post("/v1/chat/completions", {**chat, "stream": True}, token=llm),
        await wall.post("/v1/messages", {**chat, "model": "m-messages", "max_tokens": 9}, token=llm),
    ]


def refused(answer: Answer) -> bool:
    assert answer.header("content-type").startswith(("application/json", "text/event-stream")), answer.text
    return "error" in answer.json or bool(answer.json.get("result", {}).get("isError"))


BREAKS = {
    "no record can be written": ("audit", "append", AuditUnavailable("disk_full")),
    "the engine fails": ("engine", "decide", PolicyFault("engine_error")),
    "the engine answers rubbish": ("engine", "decide", b"{}"),
    "the engine allows by another contract": ("engine", "decide", b'{"contract":"2","decision":true,"effect":"allow"}'),
    "inspection fails": ("scanner", "scan", RuntimeError("a bug in a detector")),
    "shared memory fails": ("marks", "epoch", StateUnavailable("gone")),
}


@pytest.mark.parametrize("what", BREAKS)
async def test_when_something_fails_nothing_is_forwarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    part, method, outcome = BREAKS[what]

    def broken(*_given: object, **_named: object) -> bytes:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        assert not any(refused(a) for a in await ask_all(wall))  # the twin: with everything in order
        before = len(upstreams.calls())
        guard = wall.worker.guard
        parts = {
            "audit": wall.worker.audit,
            "engine": guard._engine,
            "scanner": guard.scanner,
            "marks": wall.worker.marks,
        }
        with monkeypatch.context() as patch:
            broken_part = parts[part]  # where its method is: its own, or its class's
            own = method in getattr(broken_part, "__dict__", {})
            patch.setattr(broken_part if own else type(broken_part), method, broken)
            answers = await ask_all(wall)
        assert len(upstreams.calls()) == before
        for answer in answers:
            assert refused(answer), answer.text
            assert answer.status in (200, 400, 401, 403, 500, 502, 503)
            assert "bug in a detector" not in answer.text
        assert not any(refused(a) for a in await ask_all(wall)), "it does not recover"


async def test_a_log_that_cannot_grow_stops_the_road(tmp_path: Path) -> None:
    """A real full disk, as far as one can be had without rights: the process may not write a longer file."""
    import resource
    import signal

    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        assert not any(refused(a) for a in await ask_all(wall))
        before = len(upstreams.calls())
        live = max(p.stat().st_size for p in wall.audit.rglob("live"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (min(live, 4096), hard))
            token = wall.mint("/mcp/demo", "demo:read")
            answers = [await wall.call("demo", "echo", {"text": "x"}, token=token) for _ in range(3)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert all(refused(a) for a in answers)
        assert len(upstreams.calls()) == before


# -- the same decisions on the reference engine ------------------------------------------------------------


@pytest.fixture(scope="module")
def opa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpaProcess]:
    yield from start_opa(bundle.read(), tmp_path_factory.mktemp("opa"))


CASES = [case for case in load() if "rule" in case.body.get("expect", {})]


@pytest.mark.slow
async def test_an_opa_server_decides_every_case_as_the_embedded_engine_does(tmp_path: Path, opa: OpaProcess) -> None:
    """Every attack that a policy rule stops, and its twin, with the real OPA in the engine's place."""
    async with world() as upstreams:
        upstreams.llm[MODEL] = LLMScript()
        provider = {"base_url": f"{upstreams.origin}/llm/{MODEL}", "network": "loopback"}
        model = {"provider": "up", "model": MODEL, "input_usd": 1.0, "output_usd": 1.0}
        config = settings(
            tmp_path / "state",
            policy={
                "engine": "opa-server",
                "opa": {"unix_socket": opa.address.removeprefix("unix:"), "timeout_ms": 5000},
            },
            mcp={"first": {"url": upstreams.add_mcp("first"), "network": "loopback", "tools": {"echo": "read"}}},
            llm={
                "providers": {"up": provider, "other": {**provider, "protocol": "anthropic"}},
                "models": {MODEL: model, CLAUDE: {**model, "provider": "other"}},
            },
        )
        async with composed(config) as wall:
            assert len(CASES) > 40
            for number, case in enumerate(CASES):
                await one(wall, upstreams, case, number)
            engines = {r["decision"]["engine"] for r in wall.records("decision") if r.get("decision")}
            assert all(engine.startswith("opa") for engine in engines), engines


async def one(wall: Composed, upstreams: World, case: Case, number: int) -> None:
    for twin in (False, True):
        try:
            await Run(wall, upstreams, case, f"o{number}{'t' if twin else 'a'}", twin).go()
        except AssertionError as error:
            raise AssertionError(f"{case.id}, {'twin' if twin else 'attack'}: {error}") from error
