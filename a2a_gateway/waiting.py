"""Tasks of ours in state ``TASK_STATE_AUTH_REQUIRED``: what their callers are told, and when they go on.

    ConsentNeeded with a link ─▶ park ─▶ say         a request that names it ─▶ guard ─▶ broker ─▶ start ─▶ resume

- What is told are our own fixed words, and leaves through the guard like an agent's: decided, recorded. The one
  place in them is the address of our own page; one of any other form is never put there.
- Naming the task authorizes nothing (A2A §7.6.4): whether the account is connected is asked of the broker, for
  this caller, each time.
- A task goes on when its caller names it again by SendMessage, SendStreamingMessage or GetTask, or sends the very
  message again. The *parked* message is sent, once; one that continues the task says only that.
Source: A2A 1.0 §7.6 (in-task authorization), §3.1.2 and §11.7 (a stream ends at an interrupted state).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from a2a_gateway.action import STREAMED, event_action, request_action
from a2a_gateway.call import Call, Outcome, clear_seen, refused, tell
from a2a_gateway.message import Event, Send, TaskQuery
from a2a_gateway.parked import ENDED, TASK_STATES, Asked, Parked, Parking, own_link
from a2a_gateway.upstream import Upstream
from firewall.core.action import Resource
from firewall.core.errors import ConsentNeeded, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.ports import ResourceServer
from firewall.enforce.guard import Guard
from firewall.net import asgi

Resume: TypeAlias = Callable[[Call, Parked, JSON], Awaitable[Outcome]]


class Waiting:
    """Speaks for parked tasks. resume: sends what waits in a started one. One per worker."""

    def __init__(
        self,
        guard: Guard,
        resource_server: ResourceServer,
        parking: Parking,
        upstream: Upstream,
        public_url: str,
        resume: Resume,
    ) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._parking = parking
        self._upstream = upstream
        self._public_url = public_url
        self._resume = resume

    def leads(self, call: Call, needed: ConsentNeeded) -> bool:
        """Return whether there is a person to ask, on our own page for this agent."""
        return own_link(needed.link, self._public_url, call.agent.name)

    def park(self, call: Call, needed: ConsentNeeded, asked: Asked, read: Send) -> Parked | None:
        """Return a task for a message that could not be sent; None where its caller is told the plain error."""
        if call.out.opened or not self.leads(call, needed):
            return None
        return self._parking.park(call.caller, asked, read)

    def named(self, call: Call, read: Send | TaskQuery) -> Parked | None:
        """Return the caller's own parked task that a request names."""
        return self._parking.find(call.caller, read.task_id) if read.task_id else None

    async def asked_about(self, call: Call, read: Send | TaskQuery, parked: Parked) -> Outcome:
        """Answer a request that names a parked task. Raises BartizanError.

        Malformed: task_not_cancelable, operation_unsupported (a message to a task that is over, spec §3.1.1),
        params_invalid (another context than the task's).
        """
        if isinstance(read, Send) and read.context_id not in ("", parked.context_id):
            raise Malformed("params_invalid", "another context")
        # What comes from the caller is decided like any request, though nothing of it goes on.
        verdict = await self._guard.clear(
            request_action(call.method, call.principal, call.agent.resource, read, read.params), call.exchange
        )
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        if call.method == "CancelTask":
            canceled = self._parking.cancel(call.caller, parked)
            if canceled is None:
                raise Malformed("task_not_cancelable")
            return await self.say(call, canceled)
        if isinstance(read, Send) and parked.state in ENDED:
            raise Malformed("operation_unsupported")
        return await self.continued(call, parked, read.params.get("historyLength"))

    async def continued(self, call: Call, parked: Parked, history: JSON = None) -> Outcome:
        """Go on with a parked task if it waits and there is a credential now; else say how it stands."""
        if parked.state != "parked":
            return await self.say(call, parked)
        try:
            await self._upstream.connected(call.agent, call.principal)
        except ConsentNeeded as needed:
            if not self.leads(call, needed):
                raise
            return await self.say(call, parked, needed.link)
        started = self._parking.start(call.caller, parked)
        if started is not None:
            return await self._resume(call, started, history)
        # Another request was first. Where its outcome is not ours to tell (the agent has the task by now), it works.
        again = self._parking.find(call.caller, parked.task_id)
        over = again is not None and again.state in ENDED
        return await self.say(call, again if again is not None and over else replace(parked, state="started"))

    async def failed(self, call: Call, parked: Parked, why: str, *, left: bool) -> Outcome:
        """End a task and say so. why: a fault's code; left: the message may have been sent."""
        call.resumed = None
        await self.say(call, self._parking.fail(call.caller, parked, why, left=left))
        return ("refused", why)

    async def say(self, call: Call, parked: Parked, link: str = "") -> Outcome:
        """Answer with a task of ours as it stands. link: of our own page, for one that waits."""
        told = self._parking.told(call.caller, parked)
        bare = call.bare or call.method in ("GetTask", "CancelTask")
        event = _event(parked, link, told, bare=bare)
        # An agent's words are an agent's, kept or not; ours are nobody's who could be trusted or not.
        resource = call.agent.resource if told is not None else _ours(call.agent.resource)
        action = event_action(call.method, call.principal, resource, event, call.rpc_id)
        # Our own page may stand where the node stands, and its address holds a random id: both look odd to a
        # detector. Everything but that one string, which `own_link` has read, is inspected.
        plain = _event(parked, "", told, bare=bare) if link else event
        inspected = event_action(call.method, call.principal, resource, plain, call.rpc_id).body
        found = self._guard.scanner.scan(inspected, action.point, call.principal.tenant)
        verdict = await clear_seen(self._guard, action, call.exchange, found)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        await self._write(call, verdict)
        return ("upstream_fault", "consent") if parked.state == "parked" else ("ok", "")

    async def _write(self, call: Call, cleared: Cleared) -> None:
        if call.method == STREAMED:
            await call.out.open()
            await call.out.event(cleared)
            await call.out.close()
            call.exchange.bytes_out = call.out.bytes_out
        else:
            call.exchange.bytes_out = len(cleared.payload)
            await asgi.write_cleared(call.send, cleared)

    async def _refuse(self, call: Call, refusal: Refusal) -> Outcome:
        await tell(call.out, call.send, refused(self._resource_server, refusal, call.rpc_id, call.resource))
        return ("refused", refusal.fault.code)


def _event(parked: Parked, link: str, told: JSONObject | None, *, bare: bool) -> Event:
    moment = datetime.fromtimestamp(parked.since_us / 1_000_000, UTC)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    status: JSONObject = {"state": TASK_STATES[parked.state], "timestamp": stamp}
    parts: list[JSON] = []
    if parked.state == "parked":
        parts.append(
            {
                "text": "This agent is used with an account of your own, and it is not connected yet. "
                f"Open {link} in a browser to connect it, then ask for this task again or continue it."
            }
        )
        parts.append({"data": {"url": link}, "mediaType": "application/json"})
    elif parked.text:
        parts.append({"text": parked.text})
    if told is not None:
        status["message"] = told
    elif parts:
        status["message"] = {
            "messageId": f"{parked.task_id}-{parked.state}",
            "contextId": parked.context_id,
            "taskId": parked.task_id,
            "role": "ROLE_AGENT",
            "parts": parts,
        }
    return Event("task", {"id": parked.task_id, "contextId": parked.context_id, "status": status}, bare=bare)


def _ours(agent: Resource) -> Resource:
    """Return an agent's resource for words about it that are our own: they taint nobody who reads them."""
    return replace(agent, properties={**agent.properties, "trust": "trusted"})
