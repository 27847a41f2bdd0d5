"""An agent that people sign in to: a message waits as a task of ours until its caller has connected an account."""

from __future__ import annotations

import asyncio
import json

import pytest
from a2a.helpers.proto_helpers import get_artifact_text
from a2a.types import CancelTaskRequest, GetTaskRequest, TaskState
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError

from a2a_gateway.parked import ParkingSettings
from firewall.core.errors import ConsentNeeded, UpstreamFault
from firewall.core.label import label_of
from tests.a2a_gateway.rig import OwnCredential, firewall
from tests.a2a_gateway.test_flow import (  # noqa: F401  fixtures
    AWS,
    TASK,
    agent,
    bad_agent,
    collect,
    connect,
    hi,
    http,
    json_reply,
    result,
    rpc,
    say,
    sse_reply,
)
from tests.support.kit import ALLOW, ScriptedEngine

pytestmark = [pytest.mark.anyio, pytest.mark.flow]
AUTH = "TASK_STATE_AUTH_REQUIRED"
SENDS = ("SendMessage", "SendStreamingMessage")


class Asks(OwnCredential):
    """Nobody has connected an account, until somebody has. faults: of whoever has, in order; None for none."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.link = "/upstream/connect/echo?ask=e_1"
        self.connected: set[str] = set()
        self.faults: list[Exception] = []
        self.asked = 0

    async def headers_for(self, principal, upstream):
        self.asked += 1
        await asyncio.sleep(0)
        if principal.subject not in self.connected:
            raise ConsentNeeded(upstream, f"{self.url}{self.link}" if self.link else "", "e_1")
        if self.faults:
            fault = self.faults.pop(0)
            if fault is not None:
                raise fault
        return self.headers

    def needed(self):
        return ConsentNeeded("echo", f"{self.url}{self.link}", "e_1")


@pytest.fixture
def asks():
    return Asks()


@pytest.fixture
async def rig(agent, scanner, asks):  # noqa: F811
    async with firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks) as made:
        asks.url = made.url
        yield made


def answers(response):
    """Return the results and errors of a reply, streamed or not."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    return [response.json()]


async def parked(rig, web, text="hello", method="SendMessage", message_id="m-1", **members):
    (told,) = answers(await rpc(rig, web, method, hi(text, message_id, **members)))
    return told["result"]["task"]


def sent(agent):  # noqa: F811
    """Return the texts of the messages that reached the agent."""
    bodies = [json.loads(body) for _, body in agent.seen]
    return [b["params"]["message"]["parts"][0].get("text") for b in bodies if b["method"] in SENDS]


def decided(effect):
    reason = {"rule": "t.no", "effect": effect, "code": "x", "owasp": [], "severity": 40}
    return {**ALLOW, "decision": False, "effect": effect, "risk": 40, "reasons": [reason]}


# -- what is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SENDS)
async def test_a_message_that_needs_an_account_becomes_a_task_that_says_where_to_connect_it(rig, agent, asks, method):  # noqa: F811
    async with http(rig.token()) as web:
        response = await rpc(rig, web, method, hi("hello"))
    (told,) = answers(response)  # a stream holds the task and ends: the state is an interrupted one
    task = told["result"]["task"]
    link = f"{rig.url}/upstream/connect/echo?ask=e_1"
    assert task["status"]["state"] == AUTH
    assert task["status"]["timestamp"].endswith("Z")
    text, data = task["status"]["message"]["parts"]
    assert link in text["text"]
    assert data["data"] == {"url": link}
    assert (task["status"]["message"]["taskId"], task["status"]["message"]["contextId"]) == (
        task["id"],
        task["contextId"],
    )
    assert agent.seen == []
    assert rig.points() == [("a2a.message.send", "allow"), ("a2a.task.update", "allow")]
    who = next(iter(rig.tokens.known.values()))
    assert not rig.kit.labels.current(who)  # our own words taint nobody


async def test_an_address_of_ours_that_looks_like_a_key_by_chance_is_told_whole(rig, asks):
    asks.link = f"/upstream/connect/echo?ask={AWS}"
    async with http(rig.token()) as web:
        task = await parked(rig, web)
    assert task["status"]["message"]["parts"][1]["data"] == {"url": f"{rig.url}{asks.link}"}
    assert not rig.kit.labels.current(next(iter(rig.tokens.known.values())))


@pytest.mark.parametrize(
    "link",
    [
        "",
        "/upstream/connect/other?ask=e_1",
        "/upstream/connect/echo/../../oauth/authorize",
        "/upstream/connect/echo?ask=",
        "/upstream/connect/echo?ask=e_1&next=https://evil.example",
        "/upstream/connect/echo?ask=" + "e" * 65,
        ".evil.example/upstream/connect/echo",
    ],
)
async def test_who_cannot_be_sent_to_our_own_page_gets_the_plain_error(rig, agent, asks, link):  # noqa: F811
    asks.link = link
    async with http(rig.token()) as web:
        for method in SENDS:
            (told,) = answers(await rpc(rig, web, method, hi()))
            assert told["error"]["code"] == -31407
        asks.connected.add("u_alice")
        assert "result" in (await rpc(rig, web, "SendMessage", hi())).json()
    assert sent(agent) == ["hi"]


async def test_what_is_told_of_a_parked_task_is_decided_too(agent, scanner, asks):  # noqa: F811
    def script(asked):
        return decided("deny") if asked["point"] == "a2a.task.update" else ALLOW

    engine = ScriptedEngine(script)
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks, engine=engine) as rig,
        http(rig.token()) as web,
    ):
        asks.url = rig.url
        told = (await rpc(rig, web, "SendMessage", hi())).json()
    assert told["error"]["code"] == -31403
    assert rig.url not in told["error"]["message"]


# -- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_official_client_connects_asks_for_its_task_and_keeps_its_id(rig, agent, asks, streaming):  # noqa: F811
    async with http(rig.token()) as web:
        client = await connect(rig, web, streaming=streaming)
        (first,) = await collect(client.send_message(say("hello")))
        assert first.task.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
        again = await client.get_task(GetTaskRequest(id=first.task.id))
        assert again.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
        assert rig.url in again.status.message.parts[0].text
        assert agent.seen == []
        asks.connected.add("u_alice")
        for _ in range(50):
            task = await client.get_task(GetTaskRequest(id=first.task.id))
            assert (task.id, task.context_id) == (first.task.id, first.task.context_id)
            if task.status.state == TaskState.TASK_STATE_COMPLETED:
                break
            await asyncio.sleep(0.02)
        assert get_artifact_text(task.artifacts[0]) == "hello"
        assert {turn.task_id for turn in task.history if turn.task_id} <= {task.id}
    assert sent(agent) == ["hello"]
    assert first.task.id.encode() not in b"".join(body for _, body in agent.seen)


@pytest.mark.parametrize("streaming", [False, True])
async def test_continuing_the_task_sends_the_message_that_waited_and_not_the_one_that_came(rig, agent, asks, streaming):  # noqa: F811
    async with http(rig.token()) as web:
        client = await connect(rig, web, streaming=streaming)
        (first,) = await collect(client.send_message(say("count 2")))
        more = {"task_id": first.task.id, "context_id": first.task.context_id}
        (still,) = await collect(client.send_message(say("done?", **more)))
        assert still.task.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
        asks.connected.add("u_alice")
        events = await collect(client.send_message(say("done", **more)))
        task = await client.get_task(GetTaskRequest(id=first.task.id))
    ids = {e.task.id for e in events if e.HasField("task")} | {
        e.status_update.task_id for e in events if e.HasField("status_update")
    }
    assert ids == {first.task.id}
    assert task.status.state == TaskState.TASK_STATE_COMPLETED
    assert sent(agent) == ["count 2"]


@pytest.mark.parametrize("method", SENDS)
async def test_the_same_message_sent_again_goes_on_in_its_task_and_another_under_its_id_does_not(
    rig,
    agent,  # noqa: F811
    asks,
    method,
):
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        assert (await parked(rig, web))["id"] == task["id"]
        other = (await rpc(rig, web, "SendMessage", hi("something else"))).json()
        assert other["error"]["code"] == -32600
        asks.connected.add("u_alice")
        told = answers(await rpc(rig, web, method, hi("hello")))
        assert told[0]["result"]["task"]["id"] == task["id"]
        assert (await rpc(rig, web, "SendMessage", hi("hello"))).json()["error"]["code"] == -32600
    assert sent(agent) == ["hello"]


async def test_a_task_that_went_on_is_like_any_other_under_the_id_it_had(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        client = await connect(rig, web, streaming=False)
        (first,) = await collect(client.send_message(say("ask")))
        asks.connected.add("u_alice")
        more = {"task_id": first.task.id, "context_id": first.task.context_id}
        (question,) = await collect(client.send_message(say("ready", **more)))
        assert question.task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
        (answer,) = await collect(client.send_message(say("this one", **more)))
        assert answer.task.status.state == TaskState.TASK_STATE_COMPLETED
        assert (answer.task.id, answer.task.context_id) == (first.task.id, first.task.context_id)
        named = {turn.task_id for turn in answer.task.history if turn.task_id}
        assert named <= {first.task.id}
        later = say("hello", context_id=first.task.context_id)
        later.message.reference_task_ids.append(first.task.id)
        (next_one,) = await collect(client.send_message(later))
        assert next_one.task.context_id == first.task.context_id
        assert next_one.task.id != first.task.id
    assert sent(agent) == ["ask", "this one", "hello"]


async def test_a_message_parked_in_a_conversation_stays_in_it(rig, agent, asks):  # noqa: F811
    asks.connected.add("u_alice")
    async with http(rig.token()) as web:
        before = (await rpc(rig, web, "SendMessage", hi("one"))).json()["result"]["task"]
        asks.connected.clear()
        task = await parked(rig, web, "two", message_id="m-2", contextId=before["contextId"])
        assert task["contextId"] == before["contextId"]
        asks.connected.add("u_alice")
        gone_on = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert (gone_on["id"], gone_on["contextId"]) == (task["id"], before["contextId"])
    assert sent(agent) == ["one", "two"]


async def test_an_agent_that_answers_with_a_message_completes_the_task(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        one = await parked(rig, web, "reply there you are")
        two = await parked(rig, web, "reply and you", message_id="m-2")
        asks.connected.add("u_alice")
        told = (await rpc(rig, web, "GetTask", {"id": one["id"]})).json()["result"]
        assert told["status"]["state"] == "TASK_STATE_COMPLETED"
        assert told["status"]["message"]["parts"] == [{"text": "there you are"}]
        assert told["status"]["message"]["taskId"] == told["id"] == one["id"]
        again = (await rpc(rig, web, "GetTask", {"id": one["id"]})).json()["result"]
        assert again["status"]["message"] == told["status"]["message"]
        (streamed,) = answers(
            await rpc(rig, web, "SendStreamingMessage", hi("on", "m-3", taskId=two["id"], contextId=two["contextId"]))
        )
        assert streamed["result"]["task"]["status"]["message"]["parts"] == [{"text": "and you"}]
        after = (await rpc(rig, web, "SendMessage", hi("more", "m-4", taskId=two["id"]))).json()
        assert after["error"]["code"] == -32004
    assert sent(agent) == ["reply there you are", "reply and you"]


# -- what it does not do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("connected", [False, True])
async def test_a2a_7_6_4_the_state_authorizes_nothing_only_the_brokers_credential_does(rig, agent, asks, connected):  # noqa: F811
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        if connected:  # the twin: with the one thing that counts, the same requests send it
            asks.connected.add("u_alice")
        said = {"taskId": task["id"], "contextId": task["contextId"]}
        for n, (method, params) in enumerate(
            (
                ("GetTask", {"id": task["id"]}),
                ("SendMessage", hi("I have connected it", "m-2", **said)),
                ("SendStreamingMessage", hi("it is connected", "m-3", **said)),
                ("SendMessage", hi("hello")),
            )
        ):
            (told, *_) = answers(await rpc(rig, web, method, params))
            if not connected:
                shown = told["result"].get("task", told["result"])
                assert shown["status"]["state"] == AUTH, n
            elif n == 0:
                break
    assert sent(agent) == (["hello"] if connected else [])


@pytest.mark.parametrize(
    "who",
    [{"who": "u_bob"}, {"client_id": "https://other.example/client.json"}, {"tenant": "other"}],
    ids=["subject", "client", "tenant"],
)
async def test_rs_14_another_callers_parked_task_is_told_from_an_unknown_one_by_nobody(rig, agent, asks, who):  # noqa: F811
    asks.connected.add("u_bob")
    async with http(rig.token()) as web, http(rig.token(**who)) as stranger:
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        told = set()
        for wrong in (task["id"], "00000000-0000-4000-8000-000000000000"):
            for method, params in (
                ("GetTask", {"id": wrong}),
                ("CancelTask", {"id": wrong}),
                ("SendMessage", hi("hello", "b-1", taskId=wrong)),
                ("SendStreamingMessage", hi("hello", "b-2", taskId=wrong)),
                ("SendMessage", hi("hello", "b-3", referenceTaskIds=[wrong])),
            ):
                (answer,) = answers(await rpc(rig, stranger, method, params))
                answer["error"]["data"][0]["metadata"] = {}
                told.add(json.dumps(answer["error"], sort_keys=True))
        assert len(told) == 1
        assert json.loads(told.pop())["code"] == -32001
        assert sent(agent) == []
        # The twin: its owner names the same id, and it goes on; afterwards it is as unknown to strangers as before.
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]["id"] == task["id"]
        after = (await rpc(rig, stranger, "GetTask", {"id": task["id"]})).json()
        assert after["error"]["code"] == -32001


async def test_many_who_come_back_at_once_send_it_once(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        said = {"taskId": task["id"], "contextId": task["contextId"]}
        told = await asyncio.gather(
            *(rpc(rig, web, "GetTask", {"id": task["id"]}) for _ in range(4)),
            *(rpc(rig, web, "SendMessage", hi("go", f"g-{n}", **said)) for n in range(2)),
            *(rpc(rig, web, "SendMessage", hi("hello")) for _ in range(3)),
        )
    shown = [body["result"].get("task", body["result"]) for body in (one.json() for one in told) if "result" in body]
    assert {one["id"] for one in shown} == {task["id"]}
    assert sent(agent).count("hello") == 1


async def test_what_the_caller_has_seen_meanwhile_counts_and_a_refused_resume_fails_the_task(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        rig.kit.labels.raise_(next(iter(rig.tokens.known.values())), label_of(["secret"]))
        # GetTask itself goes nowhere and is permitted; the message is judged as if it were sent now.
        told = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert told["status"]["state"] == "TASK_STATE_FAILED"
        assert told["status"]["message"]["parts"] == [{"text": "This action is not allowed by policy."}]
        again = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert again["status"] == told["status"]
        client = await connect(rig, web)
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=task["id"]))
    assert "content.secret_to_sink" in rig.rules()
    assert sent(agent) == []


async def test_without_the_label_the_same_resume_sends_it(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        await rpc(rig, web, "GetTask", {"id": task["id"]})
    assert sent(agent) == ["hello"]


async def test_a_message_that_may_not_go_is_refused_before_it_is_parked(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        told = (await rpc(rig, web, "SendMessage", hi(f"use {AWS} please"))).json()
        assert told["error"]["code"] == -31403
        task = await parked(rig, web)
        said = {"taskId": task["id"], "contextId": task["contextId"]}
        more = (await rpc(rig, web, "SendMessage", hi(f"use {AWS} please", "m-2", **said))).json()
        assert more["error"]["code"] == -31403
    assert asks.asked == 1


async def test_another_consent_on_the_way_leaves_the_task_where_it_was(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        for method in SENDS:
            asks.faults = [None, asks.needed()]  # there when asked for, refused when presented
            params = hi("go", f"g-{method}", taskId=task["id"])
            (told,) = answers(await rpc(rig, web, method, params))
            assert told["result"]["task"]["status"]["state"] == AUTH
        assert sent(agent) == []
        asks.faults = [None, UpstreamFault("credentials")]
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["error"]["code"] == -31502
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]["id"] == task["id"]
    assert sent(agent) == ["hello"]


async def test_a_refusal_that_may_be_cured_leaves_the_task_where_it_was(agent, scanner, asks):  # noqa: F811
    waits: list[bool] = []

    def script(asked):
        sends = asked["point"] == "a2a.message.send"
        return decided("approve") if sends and waits else ALLOW

    engine = ScriptedEngine(script)
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks, engine=engine) as rig,
        http(rig.token()) as web,
    ):
        asks.url = rig.url
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        waits.append(True)
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["error"]["code"] == -31402
        waits.clear()
        rig.kit.kill_switch.pull("default", "upstream", "echo", by="ops")
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["error"]["code"] == -31403
        assert sent(agent) == []
        rig.kit.kill_switch.release("default", "upstream", "echo")
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]["id"] == task["id"]
    assert sent(agent) == ["hello"]


async def test_what_was_asked_with_a_message_waits_with_it(agent, scanner, asks):  # noqa: F811
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks, extensions=("urn:a", "urn:b")) as rig,
        http(rig.token()) as web,
    ):
        asks.url = rig.url
        asked = hi("hello") | {"configuration": {"acceptedOutputModes": ["text/plain"]}}
        headers = {"a2a-extensions": "urn:a, urn:unknown"}
        told = (await rpc(rig, web, "SendMessage", asked, headers=headers)).json()["result"]["task"]
        asks.connected.add("u_alice")
        await rpc(rig, web, "GetTask", {"id": told["id"], "historyLength": 0}, headers={"a2a-extensions": "urn:b"})
    headers, body = agent.seen[0]
    assert headers[b"a2a-extensions"] == b"urn:a"
    assert json.loads(body)["params"]["configuration"] == {
        "acceptedOutputModes": ["text/plain"],
        "returnImmediately": True,
        "historyLength": 0,
    }


async def test_a_task_that_waits_is_cancelled_here_and_stays_cancelled(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        client = await connect(rig, web, streaming=False)
        (first,) = await collect(client.send_message(say("hello")))
        cancelled = await client.cancel_task(CancelTaskRequest(id=first.task.id))
        assert cancelled.status.state == TaskState.TASK_STATE_CANCELED
        asks.connected.add("u_alice")
        assert (await client.get_task(GetTaskRequest(id=first.task.id))).status.state == (TaskState.TASK_STATE_CANCELED)
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=first.task.id))
        with pytest.raises(Exception, match=r"(?i)not supported"):
            await collect(client.send_message(say("go", task_id=first.task.id)))
    assert agent.seen == []


async def test_another_context_than_the_tasks_is_refused(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        one, two = await parked(rig, web), await parked(rig, web, message_id="m-2")
        asks.connected.add("u_alice")
        told = await rpc(rig, web, "SendMessage", hi("x", "m-3", taskId=one["id"], contextId=two["contextId"]))
    assert told.json()["error"]["code"] == -32602
    assert sent(agent) == []


# -- ends, bounds, nodes -------------------------------------------------------------------------------------


async def test_a_task_that_nobody_came_back_for_is_unknown_after_its_time(rig, agent, asks):  # noqa: F811
    async with http(rig.token()) as web:
        client = await connect(rig, web, streaming=False)
        (first,) = await collect(client.send_message(say("hello")))
        rig.kit.clock.advance(3601)
        asks.connected.add("u_alice")
        with pytest.raises(TaskNotFoundError):
            await client.get_task(GetTaskRequest(id=first.task.id))
    assert sent(agent) == []


async def test_beyond_the_bounds_callers_get_the_plain_error(agent, scanner, asks):  # noqa: F811
    bounds = ParkingSettings(message_bytes=4000, per_person=2, per_tenant=3, per_node=4)
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks, parking=bounds) as rig,
        http(rig.token()) as alice,
        http(rig.token(client_id="https://second.example/client.json")) as again,
        http(rig.token("u_bob")) as bob,
        http(rig.token("u_eve")) as eve,
    ):
        asks.url = rig.url
        large = (await rpc(rig, alice, "SendMessage", hi("long " * 1000, "m-0"))).json()
        assert large["error"]["code"] == -31407
        assert (await parked(rig, alice))["status"]["state"] == AUTH
        assert (await parked(rig, again))["status"]["state"] == AUTH
        full = (await rpc(rig, alice, "SendMessage", hi("x", "m-2"))).json()
        assert full["error"]["code"] == -31407  # the person's two, whatever program they use
        assert (await parked(rig, bob))["status"]["state"] == AUTH
        assert (await rpc(rig, eve, "SendMessage", hi())).json()["error"]["code"] == -31407  # the tenant's three
        rig.kit.clock.advance(7200)
        assert (await parked(rig, eve))["status"]["state"] == AUTH


async def test_it_waits_sealed_and_goes_on_in_another_process(agent, scanner, asks):  # noqa: F811
    text = "a sentence that stands nowhere in clear"
    async with firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks) as rig:
        asks.url = rig.url
        async with http(rig.token()) as web:
            task = await parked(rig, web, text)
        rows = rig.kit.store.collection("a2a_tasks")
        assert text.encode() not in b"".join(row.value for row in rows.scan("default"))
    asks.connected.add("u_alice")
    async with (
        firewall(agent.card_url, agent.jwks(), scanner=scanner, credential=asks, rows=rows) as after,
        http(after.token()) as web,
    ):
        asks.url = after.url
        told = (await rpc(after, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert (told["id"], told["contextId"]) == (task["id"], task["contextId"])
    assert sent(agent) == [text]


@pytest.mark.parametrize("reply", [json_reply(b"rubbish"), json_reply(result({"task": TASK}), 500)])
async def test_an_answer_nobody_can_use_fails_the_task_and_nothing_is_sent_again(bad_agent, reply):  # noqa: F811
    asks, calls = Asks(), []

    async def agent(asked, receive, send):  # noqa: F811
        calls.append(asked["method"])
        await reply(asked, receive, send)

    async with bad_agent(agent, credential=asks) as (rig, web):
        asks.url = rig.url
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        assert (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["error"]["code"] == -32006
        told = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert told["status"]["state"] == "TASK_STATE_FAILED"
        assert (await rpc(rig, web, "SendMessage", hi("hello"))).json()["error"]["code"] == -32600
    assert calls == ["SendMessage"]


async def test_an_agents_old_task_does_not_take_a_parked_ones_place(bad_agent):  # noqa: F811
    asks = Asks()
    async with bad_agent(json_reply(result({"task": TASK})), credential=asks) as (rig, web):
        asks.url = rig.url
        asks.connected.add("u_alice")
        old = (await rpc(rig, web, "SendMessage", hi("one", "m-0"))).json()["result"]["task"]
        asks.connected.clear()
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        told = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()
        assert told["error"]["code"] == -32006
        shown = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert shown["id"] == task["id"] != old["id"]
        assert shown["status"]["state"] == "TASK_STATE_FAILED"


async def test_a_caller_that_leaves_in_between_finds_out_that_nobody_knows(bad_agent):  # noqa: F811
    asks, calls, here = Asks(), [], asyncio.Event()

    async def hang(asked, receive, send):
        calls.append(asked["method"])
        here.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with bad_agent(hang, credential=asks) as (rig, web):
        asks.url = rig.url
        task = await parked(rig, web)
        asks.connected.add("u_alice")
        going = asyncio.create_task(rpc(rig, web, "GetTask", {"id": task["id"]}))
        await asyncio.wait_for(here.wait(), 5)
        working = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert working["status"]["state"] == "TASK_STATE_WORKING"
        busy = await rpc(rig, web, "CancelTask", {"id": task["id"]})
        assert busy.json()["error"]["code"] == -32002
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        for _ in range(100):
            told = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
            if told["status"]["state"] != "TASK_STATE_WORKING":
                break
            await asyncio.sleep(0.02)
        assert told["status"]["state"] == "TASK_STATE_FAILED"
        assert "not known" in told["status"]["message"]["parts"][0]["text"]
    assert calls == ["SendMessage"]


async def test_a_blocked_event_of_a_resumed_stream_cancels_the_agents_task_and_the_id_still_leads_to_it(bad_agent):  # noqa: F811
    asks, left = Asks(), []
    bad = result({"statusUpdate": {"taskId": "other", "contextId": "C", "status": {"state": "TASK_STATE_WORKING"}}})
    async with bad_agent(sse_reply(result({"task": TASK}), bad, left=left), credential=asks) as (rig, web):
        asks.url = rig.url
        task = await parked(rig, web, method="SendStreamingMessage")
        asks.connected.add("u_alice")
        told = answers(await rpc(rig, web, "SendStreamingMessage", hi("go", "m-2", taskId=task["id"])))
        assert told[0]["result"]["task"]["id"] == task["id"]
        assert told[-1]["error"]["code"] == -32006
        assert left == ["cancelled"]
        cancelled = (await rpc(rig, web, "CancelTask", {"id": task["id"]})).json()["result"]
        assert cancelled["id"] == task["id"]


@pytest.mark.parametrize("method", SENDS)
async def test_a_message_to_a_task_of_the_agents_own_is_not_parked_and_may_be_sent_again_as_it_is(
    rig,
    agent,  # noqa: F811
    asks,
    method,
):
    """An answer to a question that the agent asked then is for the person to send now: they see the task as it stands first."""
    async with http(rig.token()) as web:
        asks.connected.add("u_alice")
        task = (await rpc(rig, web, "SendMessage", hi("ask", "m-0"))).json()["result"]["task"]
        assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        asks.connected.clear()  # the account was disconnected, or its grant ended there
        on = {"taskId": task["id"], "contextId": task["contextId"]}
        for _ in range(2):
            (told,) = answers(await rpc(rig, web, method, hi("this one", "m-1", **on)))
            assert told["error"]["code"] == -31407
            assert asks.link in json.dumps(told["error"])
        looked = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()
        assert looked["error"]["code"] == -31407  # no state is made up for a task that nobody can look at
        assert sent(agent) == ["ask"]
        asks.connected.add("u_alice")
        looked = (await rpc(rig, web, "GetTask", {"id": task["id"]})).json()["result"]
        assert looked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert sent(agent) == ["ask"]  # looking sent nothing
        answers(await rpc(rig, web, method, hi("this one", "m-1", **on)))
        again = (await rpc(rig, web, "SendMessage", hi("this one", "m-1", **on))).json()
        assert again["error"]["code"] == -32600
    assert sent(agent) == ["ask", "this one"]
