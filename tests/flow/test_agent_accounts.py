"""People's own accounts at an agent, through the whole firewall: AUTH_REQUIRED, a browser, and the task goes on."""

from __future__ import annotations

import asyncio
import hashlib

import httpx
import httpx2
import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import get_artifact_text, new_text_message
from a2a.types import GetTaskRequest, Role, SendMessageRequest, TaskState

from examples.demo_a2a_agent import DemoAgent
from firewall.identity.settings import ClientSettings
from tests.a2a_gateway.rig import free_socket, serving
from tests.support.composed import composed, settings
from tests.support.door import PASSWORD, Browser
from tests.support.mcp import NO_TLS
from tests.support.upstreams import NAME, OURS, SECRET, Person, upstream_server

pytestmark = [pytest.mark.flow, pytest.mark.anyio]


async def test_a_person_connects_an_account_and_the_task_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FILES_SECRET", SECRET)
    ours = ClientSettings(
        "bartizan",
        "Our node",
        redirect_uris=(f"{OURS}/upstream/callback/{NAME}",),
        auth_method="client_secret_basic",
        secret_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
        tenant="saas",
    )
    listener = free_socket()
    demo = DemoAgent(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    inner, seen = demo.app(), []

    async def agent(scope, receive, send):
        if scope["method"] == "POST":
            seen.append(dict(scope["headers"]))
        await inner(scope, receive, send)

    async with upstream_server(clients=(ours,)) as upstream, serving(agent, listener):
        given = {
            "card_url": f"{demo.url}.well-known/agent-card.json",
            "keys": demo.jwks(),
            "network": "loopback",
            "title": "Files",
            "auth": {
                "ways": ["user"],
                "issuer": upstream.origin,
                "resource": upstream.url,
                "client_id": "bartizan",
                "secret_env": "FILES_SECRET",
                "network": "loopback",
                "dpop": "off",
            },
        }
        async with composed(settings(tmp_path / "state", a2a={NAME: given}), workers=2) as wall:
            ada = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("files:*",))
            await upstream.user("ada-there")
            token = wall.mint(f"/a2a/{NAME}", f"{NAME}:send", sub=ada.subject)
            other = wall.mint(f"/a2a/{NAME}", f"{NAME}:send", sub="somebody-else")
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(headers=headers, timeout=10) as web:
                card = await A2ACardResolver(web, f"{wall.url}/a2a/{NAME}").get_agent_card()
                client = ClientFactory(ClientConfig(streaming=False, httpx_client=web)).create(card)
                message = new_text_message("hello", role=Role.ROLE_USER)
                (first,) = [event async for event in client.send_message(SendMessageRequest(message=message))]
                assert first.task.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
                told = first.task.status.message.parts
                link = told[1].data.struct_value.fields["url"].string_value
                assert link in told[0].text
                assert link.startswith(f"{wall.url}/upstream/connect/{NAME}?ask=")
                for _ in range(4):  # whichever worker answers
                    waits = await client.get_task(GetTaskRequest(id=first.task.id))
                    assert waits.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
                assert seen == []
                async with (
                    httpx2.AsyncClient(base_url=wall.url, verify=NO_TLS, timeout=10) as here,
                    httpx2.AsyncClient(base_url=upstream.origin, verify=NO_TLS, timeout=10) as there,
                ):
                    browser = Browser(here, wall.url)
                    person = Person(None, upstream, "ada", "ada-there", browser, Browser(there, upstream.origin))  # type: ignore[arg-type]
                    assert "Connected" in (await person.connect(link)).text
                body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": first.task.id}}
                foreign = await wall.post(f"/a2a/{NAME}", body, token=other, headers={"a2a-version": "1.0"})
                assert foreign.json["error"]["code"] == -32001
                assert seen == []
                shown = await asyncio.gather(*(client.get_task(GetTaskRequest(id=first.task.id)) for _ in range(6)))
                assert {task.id for task in shown} == {first.task.id}
                task = await client.get_task(GetTaskRequest(id=first.task.id))
                for _ in range(200):
                    if task.status.state == TaskState.TASK_STATE_COMPLETED:
                        break
                    await asyncio.sleep(0.02)
                    task = await client.get_task(GetTaskRequest(id=first.task.id))
                assert (task.id, task.context_id) == (first.task.id, first.task.context_id)
                assert get_artifact_text(task.artifacts[0]) == "hello"
                assert len(task.history) <= 2  # the message stands in it once
            assert all(one[b"authorization"].startswith(b"Bearer ") for one in seen)
            assert token.encode() not in b"".join(one[b"authorization"] for one in seen)  # RS-16
            assert not [fault for fault in wall.faults if fault[0] == "upstream"]
