"""Several workers, one child and one live session: whoever is asked, the owner serves (DESIGN §6b-2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.core.errors import UpstreamFault
from firewall.core.permit import Border, Cleared
from firewall.net.channel import Kind, Peers, Seat, WorkerGone
from firewall.net.handover import Handover
from firewall.net.runtime import Tasks
from firewall.state.lease import Leases
from mcp_gateway import owner
from mcp_gateway.owner import Neighbours, SharedLink
from mcp_gateway.remote import LANE, SERVICE, RemoteLink
from tests.mcp_gateway.scripted import fine, scripted
from tests.support.kit import call as call_action
from tests.support.kit import kit, principal
from tests.support.mcp import NO_WALLS, Stack, running, spec

pytestmark = pytest.mark.flow
CHILD = Path(__file__).with_name("child.py")
SECRET = b"n" * 32


@dataclass
class Node:
    """Workers of one node in this process: a gateway, a port and a socket each."""

    workers: list[Stack]
    near: list[Neighbours]

    def links(self) -> list[Any]:
        return [link for w in self.workers for link in w.gateway._catalog.pool._links.values()]

    @property
    def owner(self) -> int:
        (found,) = [n for n, w in enumerate(self.workers) if any(isinstance(k, SharedLink) for k in links_of(w))]
        return found


def links_of(worker: Stack) -> list[Any]:
    return list(worker.gateway._catalog.pool._links.values())


@contextlib.asynccontextmanager
async def node(tmp_path: Path, *specs: Any, count: int = 3, **more: Any) -> AsyncIterator[Node]:
    tasks = Tasks()
    near = []
    for index in range(count):
        peers = Peers(Seat(index, count, tmp_path / "run", SECRET), tasks)
        near.append(Neighbours(peers, Handover(peers, tasks), Leases(tmp_path / "run" / "leases", index)))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(tasks.close)
        workers = []
        for one in near:
            given = {"support": NO_WALLS, "scratch": str(tmp_path / "scratch"), "near": one, **more}
            worker = await stack.enter_async_context(running(*specs, **given))
            one.handover.use(worker.gateway)
            await one.peers.start()
            stack.push_async_callback(one.peers.stop)
            stack.callback(one.leases.close)
            workers.append(worker)
        async with asyncio.timeout(40):
            yield Node(workers, near)


def kid(*arguments: str, **changes: Any) -> Any:
    given = {"command": (sys.executable, str(CHILD), *arguments), "unsandboxed": True, **changes}
    return spec("kid", transport="stdio", **given)


async def call(worker: Stack, name: str, rpc_id: int = 1, **meta: Any) -> list[Any]:
    asked = {"name": name, "arguments": {}, "_meta": meta}
    answer = await worker.modern("/mcp/kid", "tools/call", asked, rpc_id=rpc_id)
    lines = answer.text.strip().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(event) for event in events] if events else [json.loads(answer.text)]


def text(said: list[Any]) -> str:
    return str(said[-1]["result"]["content"][0]["text"])


# -- one child ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_one_child_serves_every_worker(tmp_path: Path, era: str) -> None:
    async with node(tmp_path, kid(*(["legacy"] if era == "legacy" else []))) as made:
        for worker in made.workers:
            assert text(await call(worker, "fine")) == "fine"
        kinds = sorted(type(link).__name__ for link in made.links())
        assert kinds == ["RemoteLink", "RemoteLink", "SharedLink"]
        assert {link.opened.era for link in made.links()} == {era}
        owning = made.near[made.owner]
        assert owning.leases.hint("default\0kid") == made.owner


async def test_each_of_many_calls_at_once_gets_its_own_answer_and_its_own_progress(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        for worker in made.workers:
            await call(worker, "fine")

        async def one(number: int) -> None:
            said = await call(made.workers[number % 3], "progress", number, progressToken=f"t{number}")
            tokens = [m["params"]["progressToken"] for m in said if "params" in m]
            assert tokens == [f"t{number}"] * 2
            assert said[-1]["id"] == number

        await asyncio.gather(*(one(number) for number in range(24)))
        # The channels of answered calls are kept, so that the next call needs no handshake.
        assert sum(len(kept) for near in made.near for kept in near.peers._idle.values()) > 0


async def test_a_child_that_dies_ends_the_call_and_the_next_one_of_any_worker_works(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        for worker in made.workers:
            await call(worker, "fine")
        other = made.workers[(made.owner + 1) % 3]
        assert (await call(other, "die"))[-1]["error"]["code"] == -31502
        for worker in made.workers:
            assert text(await call(worker, "fine")) == "fine"
        assert len([k for k in made.links() if isinstance(k, SharedLink)]) == 1


async def test_a_hanging_child_meets_its_deadline_through_another_worker(tmp_path: Path) -> None:
    async with node(tmp_path, kid(deadline_s=0.5)) as made:
        for worker in made.workers:
            await call(worker, "fine")
        said = await call(made.workers[(made.owner + 1) % 3], "hang")
        assert "in time" in said[-1]["error"]["message"]


async def test_a_client_that_leaves_frees_the_owner_too(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        for worker in made.workers:
            await call(worker, "fine")
        asking = made.workers[(made.owner + 1) % 3]
        (share,) = links_of(made.workers[made.owner])
        job = asyncio.create_task(call(asking, "hang"))
        while not share.child._mux._open:
            await asyncio.sleep(0.01)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        while share.child._mux._open:
            await asyncio.sleep(0.01)


async def test_when_the_owner_ends_another_worker_takes_the_child_over(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        for worker in made.workers:
            await call(worker, "fine")
        first = made.owner
        gone, near = made.workers[first], made.near[first]
        await near.peers.stop()
        await gone.gateway.close()
        near.leases.close()
        left = [w for n, w in enumerate(made.workers) if n != first]
        for worker in left:
            assert text(await call(worker, "fine")) == "fine"
        assert made.owner != first
        assert sorted(type(k).__name__ for w in left for k in links_of(w)) == ["RemoteLink", "SharedLink"]


async def test_the_last_user_ends_the_child(tmp_path: Path) -> None:
    async with node(tmp_path, kid(), count=2) as made:
        for worker in made.workers:
            await call(worker, "fine")
        other = 1 - made.owner
        (share,) = links_of(made.workers[made.owner])
        child = share.child
        await made.workers[made.owner].gateway._catalog.pool.drop("kid")
        assert child.alive, "the other worker uses it"
        await made.workers[other].gateway._catalog.pool.drop("kid")
        while child.alive:
            await asyncio.sleep(0.01)


async def test_workers_with_different_configurations_share_no_child(tmp_path: Path) -> None:
    async with node(tmp_path, kid(), count=2) as made:
        await call(made.workers[0], "fine")
        other = 1 - made.owner
        made.workers[other].gateway.serve_only((kid(deadline_s=5.0),))
        assert (await call(made.workers[other], "fine"))[-1]["error"]["code"] == -31502
        made.workers[made.owner].gateway.serve_only((kid(deadline_s=5.0),))
        assert text(await call(made.workers[other], "fine")) == "fine"


# -- who may have bytes written ---------------------------------------------------------------------------


async def lane_of(made: Node, asking: int) -> RemoteLink:
    for worker in made.workers:
        await call(worker, "fine")
    (link,) = links_of(made.workers[asking])
    assert isinstance(link, RemoteLink)
    return link


async def ask(made: Node, asking: int, head: dict[str, Any], payload: bytes) -> str:
    """Say something to the owner as a worker that knows the node's secret; return how it ended."""
    channel = await made.near[asking].peers.open(made.owner, SERVICE, head)
    channel.put(Kind.DATA, payload)
    try:
        kind, told = await channel.receive()
        return f"{Kind(kind).name} {told.decode()[:60]}"
    except WorkerGone:
        return "closed"
    finally:
        made.near[asking].peers.done(made.owner, channel, whole=False)


async def cleared_bytes(rpc_id: int) -> Cleared:
    k = kit()
    body = {"name": "fine", "arguments": {}}
    action = call_action(body)
    whole = {"jsonrpc": "2.0", "id": rpc_id, "method": "tools/call", "params": body}
    object.__setattr__(action, "body", whole)
    verdict = await k.guard.clear(action, k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(verdict, Cleared)
    return verdict


async def test_the_owner_writes_only_what_a_guard_of_the_node_cleared_for_this_child(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        await call(made.workers[0], "fine")
        asking = next(n for n in range(3) if n != made.owner)
        link = await lane_of(made, asking)
        cleared = await cleared_bytes(link.next_id())
        border = Border(owner._key(SECRET))
        told = {"decision": cleared.decision_id, "record": cleared.record_uid}

        def head(proof: bytes, **changes: Any) -> dict[str, Any]:
            return {"op": "exchange", "lane": link._lane, "life": link._life, **told, "proof": proof.hex(), **changes}

        good = border.seal(cleared, link._slot)
        assert (await ask(made, asking, head(good), cleared.payload)).startswith("DATA")
        for bad_head, payload in (
            (head(b""), cleared.payload),
            (head(good), cleared.payload.replace(b"fine", b"hang")),
            (head(good, decision="d_other"), cleared.payload),
            (head(border.seal(cleared, "default\0other\0\0")), cleared.payload),
            (head(Border(SECRET).seal(cleared, link._slot)), cleared.payload),
            ({**head(good), "op": "command"}, cleared.payload),
        ):
            assert await ask(made, asking, bad_head, payload) == "closed"
        # Another lane's ids, and a lane that is not there or belonged to an earlier life of the owner.
        outside = await cleared_bytes(7)
        assert await ask(made, asking, head(border.seal(outside, link._slot), lane=link._lane), outside.payload) in (
            "closed",
        )
        for changes in ({"lane": 999}, {"life": "0" * 32}):
            assert "cut_stream" in await ask(made, asking, head(good, **changes), cleared.payload)
        assert link.next_id() // LANE == link._lane


async def test_nothing_that_is_not_cleared_leaves_by_a_remote_link(tmp_path: Path) -> None:
    async with node(tmp_path, kid()) as made:
        await call(made.workers[0], "fine")
        link = await lane_of(made, next(n for n in range(3) if n != made.owner))
        with pytest.raises(TypeError):
            await link.notify(b"{}", ())  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            async with link.exchange(link.next_id(), b"{}", ()):  # type: ignore[arg-type]
                pass


async def test_a_command_comes_from_the_owners_own_configuration(tmp_path: Path) -> None:
    async with node(tmp_path, kid(), count=2) as made:
        await call(made.workers[0], "fine")
        other = 1 - made.owner
        strange = kid(command=(sys.executable, "-c", "print(1)"))
        for one in (strange, spec("unknown", transport="stdio", command=("/bin/true",), unsandboxed=True)):
            asked = {"tenant": "default", "declared": {}, "caller": ""}
            with pytest.raises(UpstreamFault):
                await RemoteLink.to(made.near[other].peers, Border(SECRET), made.owner, "x", one, asked)


# -- sessions ------------------------------------------------------------------------------------------------


def legacy(method: str, rpc_id: int | None = 1, **params: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return body if rpc_id is None else {**body, "id": rpc_id}


async def opened_at(worker: Stack, path: str = "/mcp/demo") -> dict[str, str]:
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    answer = await worker.post(path, legacy("initialize", **info))
    assert answer.status_code == 200, answer.text
    return {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}


async def test_a_session_is_served_wherever_its_requests_arrive(tmp_path: Path) -> None:
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url)) as made:
        headers = await opened_at(made.workers[1])
        for worker in made.workers:
            note = await worker.post("/mcp/demo", legacy("notifications/initialized", None), headers=headers)
            assert note.status_code == 202
            listed = await worker.post("/mcp/demo", legacy("tools/list"), headers=headers)
            assert listed.status_code == 200
            assert "tools" in listed.text
        assert [len(w.gateway.sessions) for w in made.workers] == [0, 1, 0]
        # The owner's records alone tell of it: the workers in between decided nothing.
        assert made.workers[0].kit.audit.records == [] or all(
            r.get("client_ip") != "127.0.0.1" for r in made.workers[0].kit.audit.records
        )


async def test_a_session_ends_from_any_worker_and_is_then_unknown_to_all(tmp_path: Path) -> None:
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url)) as made:
        headers = await opened_at(made.workers[1])
        async with httpx2.AsyncClient() as http:
            auth = {"authorization": "Bearer alice", **headers}
            assert (await http.delete(made.workers[2].url("/mcp/demo"), headers=auth)).status_code == 200
        for worker in made.workers:
            assert (await worker.post("/mcp/demo", legacy("ping"), headers=headers)).status_code == 404


async def test_a_session_is_worth_nothing_to_another_caller_at_any_worker(tmp_path: Path) -> None:
    from tests.support.mcp import person

    people = {name: person("demo:read", subject=name) for name in ("alice", "mallory")}
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url), people=people) as made:
        headers = await opened_at(made.workers[1])
        for worker in made.workers:
            stolen = await worker.post("/mcp/demo", legacy("ping"), token="mallory", headers=headers)
            assert stolen.status_code == 404
            own = await worker.post("/mcp/demo", legacy("ping"), headers=headers)
            assert own.status_code == 200


async def test_a_stream_opened_through_another_worker_stays_open_and_ends_with_its_client(tmp_path: Path) -> None:
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url)) as made:
        headers = {**await opened_at(made.workers[1]), "authorization": "Bearer alice", "accept": "text/event-stream"}
        (session,) = made.workers[1].gateway.sessions._live.values()
        async with httpx2.AsyncClient() as http:
            async with http.stream("GET", made.workers[0].url("/mcp/demo"), headers=headers) as stream:
                assert stream.status_code == 200
                assert stream.headers["content-type"].startswith("text/event-stream")
                lines = stream.aiter_lines()
                primed = [await anext(lines) for _ in range(2)]
                assert any(line.startswith("id:") for line in primed)
                assert session.listening
        while session.listening:
            await asyncio.sleep(0.01)


async def test_when_its_owner_is_gone_a_session_is_unknown(tmp_path: Path) -> None:
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url)) as made:
        headers = await opened_at(made.workers[1])
        await made.near[1].peers.stop()
        for worker in (made.workers[0], made.workers[2]):
            answer = await worker.post("/mcp/demo", legacy("ping"), headers=headers)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == "The session is not known."


async def test_a_body_beyond_its_bound_is_refused_before_it_is_handed_over(tmp_path: Path) -> None:
    async with scripted(fine) as upstream, node(tmp_path, spec("demo", url=upstream.url)) as made:
        headers = await opened_at(made.workers[1])
        big = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"' + b"x" * (4 << 20) + b'"}}'
        answer = await made.workers[0].post("/mcp/demo", big, headers=headers)
        assert answer.status_code == 413


# -- parked exchanges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_retry_finds_its_parked_exchange_from_any_worker(tmp_path: Path, where: int) -> None:
    able = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
    asked = {"name": "sample", "arguments": {}, "_meta": able}
    async with node(tmp_path, kid("legacy", asks=frozenset({"sampling"}))) as made:
        first = (await made.workers[0].modern("/mcp/kid", "tools/call", asked)).json()["result"]
        assert first["resultType"] == "input_required"
        ((key, question),) = first["inputRequests"].items()
        assert question["method"] == "sampling/createMessage"
        answer = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
        retry = {**asked, "inputResponses": {key: answer}, "requestState": first["requestState"]}
        second = await made.workers[where].modern("/mcp/kid", "tools/call", retry, rpc_id=2)
        said = json.loads(second.json()["result"]["content"][0]["text"])
        assert said["result"]["content"]["text"] == "hi"
        # Spent: again, at whichever worker, it is worth nothing.
        for worker in made.workers:
            spent = await worker.modern("/mcp/kid", "tools/call", retry, rpc_id=3)
            assert spent.json()["error"]["message"] == "The request state is not known here."


async def test_when_its_worker_is_gone_a_parked_exchange_is_unknown(tmp_path: Path) -> None:
    able = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
    asked = {"name": "sample", "arguments": {}, "_meta": able}
    async with node(tmp_path, kid("legacy", asks=frozenset({"sampling"}))) as made:
        first = (await made.workers[0].modern("/mcp/kid", "tools/call", asked)).json()["result"]
        await made.near[0].peers.stop()
        retry = {**asked, "inputResponses": {}, "requestState": first["requestState"]}
        answer = await made.workers[1].modern("/mcp/kid", "tools/call", retry)
        assert answer.json()["error"]["message"] == "The request state is not known here."
