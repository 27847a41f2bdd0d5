"""Questions of an upstream on their way to the client, and answers on their way back: the bridge's four cells.

                    legacy upstream (asks within its answer)     modern upstream (``input_required``)
    legacy client   `put`: ask on its stream, answer by POST     `collect`: ask each, then retry with the answers
    modern client   `park`: keep the exchange, ``input_required``  `wrap`: ``input_required``, state sealed by us

A question is parsed and decided at its ASK point before a byte of it leaves, an answer at its ANSWER
point; a retry is a new decision about the whole request (DESIGN §6b-4). An agent answers what a *server*
asks; nothing here approves anything of ours (DESIGN §6b-3). Source: mcp reference §5.1, §5.6.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from firewall.core.errors import RPC_DENIED, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.ports import Ids
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import questions
from mcp_gateway.action import response
from mcp_gateway.brought import added, brought_by, request_of
from mcp_gateway.conversation import Conversations, Parked, end
from mcp_gateway.exchanges import Exchange
from mcp_gateway.face import Declined, Gone
from mcp_gateway.house import House, Refused
from mcp_gateway.message import RpcId
from mcp_gateway.questions import Answer, Question
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.state_seal import ROUNDS, Sealed, StateSeal
from mcp_gateway.upstream import Credentials, Link
from mcp_gateway.versions import LEGACY, MODERN

if TYPE_CHECKING:
    from mcp_gateway.relay import Turn
    from mcp_gateway.targets import Target

# MCP 2026-07-28, multi round-trip requests: only these may be answered with `input_required`.
METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
URL_REQUIRED: Final = -32042
TOKEN_TRIES: Final = 8
QUESTIONS_PER_CALL: Final = (
    ROUNDS * questions.QUESTIONS
)  # as many as a modern upstream can ask; each is decided and recorded
_URL_REQUIRED_TEXT: Final = "The upstream needs something to be done at an address first."
# What a server is told when nobody answers: never a peer's words.
_DECLINED: Final = {
    -1: "The question was rejected.",
    -32601: "Method not found",
    -32602: "The question is not valid.",
    -32603: "The question was not answered.",
    RPC_DENIED: "The question is not allowed.",
}

Told = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Retry:
    """A request to be sent (again): what is added to its parameters, and how often that was done before."""

    params: JSONObject = field(default_factory=dict)
    rounds: int = 1


def declared(turn: Turn, spec: UpstreamSpec) -> JSONObject:
    """Return the client capabilities to declare upstream for a request: the client's ∩ the operator's ``asks``."""
    if not spec.asks:
        return {}
    given = turn.face.capabilities if turn.face is not None else turn.call.capabilities
    return questions.declared(given, spec.asks)


class Asking:
    """The bridge of questions; one per worker. worker: its number, which sealed names of parked exchanges carry."""

    def __init__(
        self, guard: Guard, house: House, seal: StateSeal, conversations: Conversations, ids: Ids, *, worker: int = 0
    ) -> None:
        self._guard = guard
        self._house = house
        self._seal = seal
        self._ids = ids
        self._worker = worker
        self.conversations = conversations

    # -- legacy client -----------------------------------------------------------------------------------

    async def put(
        self, turn: Turn, target: Target, link: Link, value: JSONObject, credentials: Credentials, answered: Told
    ) -> None:
        """Ask a legacy client what a legacy upstream asks, and bring the answer. Raises UpstreamFault, Refused.

        answered: told when the client has said what it will, before that is brought to the upstream.
        """
        asked = request_of(value)
        if asked is None or turn.face is None:
            return
        turn.face.asked += 1
        if turn.face.asked > QUESTIONS_PER_CALL:
            raise UpstreamFault("too_large", "one call brought too many questions")
        try:
            question = self._parse(turn, target, asked.method, asked.params, link.declared)
        except Malformed:
            await self._decline(turn, target, link, asked.id, -32602, credentials)
            return
        told = await self._ask(turn, target, question)
        answered()
        if not isinstance(told, Answer):
            await self._decline(turn, target, link, asked.id, told, credentials)
            return
        body = jsonrpc.build_response(asked.id, told.result)
        cleared = await self._clear_answer(turn, target, link, question, told, body)
        if isinstance(cleared, Refusal):
            await self._decline(turn, target, link, asked.id, RPC_DENIED, credentials)
        else:
            await link.notify(cleared, await credentials())

    async def collect(self, turn: Turn, target: Target, link: Link, result: JSONObject, rounds: int) -> Retry | str:
        """Ask a legacy client everything that a modern upstream's result asks.

        Returns what the retry adds, or the exchange's outcome when the call was refused.
        Raises UpstreamFault: unanswered, malformed.
        """
        asked, state = self._required(turn, target, result, rounds)
        responses: JSONObject = {}
        for key, question in asked.items():
            told = await self._ask(turn, target, question)
            if not isinstance(told, Answer):
                if question.kind != "elicitation" or told == RPC_DENIED:
                    raise UpstreamFault("unanswered")
                told = Answer({"action": "cancel"}, {"action": "cancel", "fields": []})  # nobody chose anything
            cleared = await self._clear_answer(turn, target, link, question, told, told.result)
            if isinstance(cleared, Refusal):
                return await turn.refuse(cleared, tool_call=target.method == "tools/call")
            responses[key] = cleared.body
        return Retry(added(responses, state), rounds + 1)

    async def _ask(self, turn: Turn, target: Target, question: Question) -> Answer | int:
        """Return a legacy client's answer, or the JSON-RPC code for the server that asked."""
        face, spec = turn.face, target.spec
        if face is None:
            return -32601
        resource = self._house.resource(turn.principal.tenant, spec)
        try:
            result = await face.ask(
                question.method,
                question.params,
                turn=turn,
                wait_s=spec.answer_s,
                act=lambda body: questions.ask_action(
                    question, turn.principal, resource, body, version=turn.call.version, transport="sse"
                ),
            )
            return questions.answer(question, result, roots=spec.roots)
        except Refused:
            return RPC_DENIED
        except Declined as declined:
            return declined.code if declined.code in (-1, -32601) else -32603
        except (TimeoutError, Gone, Malformed):
            return -32603

    # -- modern client -------------------------------------------------------------------------------------

    async def park(
        self,
        turn: Turn,
        target: Target,
        link: Link,
        exchange: Exchange,
        rpc_id: int,
        values: Iterable[JSONObject],
        cancel: Callable[[], Awaitable[None]],
        rounds: int,
    ) -> str:
        """Keep a legacy upstream's exchange and ask a modern client with ``input_required``.

        Takes the exchange over: whatever happens, it is parked or ended. Raises UpstreamFault.
        """
        asked: dict[str, tuple[RpcId, Question]] = {}
        parked = Parked(self._owner(turn), link, exchange, rpc_id, asked, cancel, rounds + 1)
        kept = False
        try:
            for value in values:
                message = request_of(value)
                if message is None or rounds > ROUNDS:
                    raise UpstreamFault("malformed", "a question has no known shape")
                question = self._parse(turn, target, message.method, message.params, link.declared)
                asked[f"q{len(asked) + 1}"] = (message.id, question)
            name = self.conversations.park(parked)
            sealed = Sealed(
                target.spec.name,
                {key: question.sealed() for key, (_, question) in asked.items()},
                None,
                name,
                self._worker,
                rounds + 1,
            )
            outcome = await self._tell(turn, target, {key: question for key, (_, question) in asked.items()}, sealed)
            kept = outcome == "ok"
            if not kept:
                self.conversations.take(parked.owner, name)
            return outcome
        except Malformed:
            raise UpstreamFault("malformed", "a question has no known shape") from None
        finally:
            if not kept:
                await end(parked)

    async def wrap(
        self, turn: Turn, target: Target, link: Link, result: JSONObject, rounds: int
    ) -> str | Retry | Refusal:
        """Pass a modern upstream's questions to a modern client, its state sealed. Raises UpstreamFault.

        Returns what a retry adds instead, where the request brought the answers before it was asked; a Refusal of one.
        """
        asked, state = self._required(turn, target, result, rounds)
        brought = brought_by(turn.call.params, asked, target.spec.roots) if rounds == 1 and state is None else {}
        if brought:
            return await self._take(turn, target, link, asked, brought, rounds)
        sealed = Sealed(
            target.spec.name,
            {key: question.sealed() for key, question in asked.items()},
            state,
            rounds=rounds + 1,
        )
        try:
            return await self._tell(turn, target, asked, sealed)
        except Malformed:
            raise UpstreamFault("too_large", "the upstream's state is too large to be sealed") from None

    async def _take(
        self,
        turn: Turn,
        target: Target,
        link: Link,
        asked: dict[str, Question],
        brought: dict[str, Answer],
        rounds: int,
    ) -> Retry | Refusal:
        """Answer a modern upstream with what the request brought along.

        The upstream asked in this very exchange, so there is all that an answer is judged by: every question is decided
        as if it were told, and every answer as if it came back. A client that skips its person could do so afterwards too.
        """
        resource = self._house.resource(turn.principal.tenant, target.spec)
        responses: JSONObject = {}
        for key, question in asked.items():
            body: JSONObject = {"method": question.method, "params": question.params}
            version = turn.call.version
            ask = questions.ask_action(question, turn.principal, resource, body, version=version, transport="http")
            verdict = await self._guard.clear(ask, turn.exchange)
            if isinstance(verdict, Cleared):
                told = brought[key]
                verdict = await self._clear_answer(turn, target, link, question, told, told.result)
            if isinstance(verdict, Refusal):
                return verdict
            responses[key] = verdict.body
        return Retry(added(responses, None), rounds + 1)

    async def required(self, turn: Turn, target: Target, link: Link, data: JSON, rounds: int) -> str | None:
        """Pass the addresses of a legacy upstream's -32042 on; None when this client cannot be sent to one.

        A client of 2025-11-25 gets the error with checked data; a modern one gets ``input_required``, and
        its retry is a new request upstream. Raises UpstreamFault.
        """
        call, spec = turn.call, target.spec
        can = declared(turn, spec)
        elicitation = can.get("elicitation")
        if not isinstance(elicitation, dict) or "url" not in elicitation or link.opened.era == MODERN:
            return None
        if call.era == LEGACY and call.version != "2025-11-25":
            return None
        try:
            found = questions.required(data, can, upstream=spec.name, era=call.era)
            if call.era == LEGACY:
                return await self._tell_all(
                    turn,
                    target,
                    found,
                    lambda given: jsonrpc.build_error(
                        call.id, URL_REQUIRED, _URL_REQUIRED_TEXT, {"elicitations": list[JSON](given)}
                    ),
                )
            asked = {f"q{n}": question for n, question in enumerate(found, 1)}
            sealed = Sealed(spec.name, {key: q.sealed() for key, q in asked.items()}, rounds=rounds + 1)
            return await self._tell(turn, target, asked, sealed)
        except Malformed:
            raise UpstreamFault("malformed", "an error names addresses in an unknown shape") from None

    def open(self, turn: Turn, target: Target) -> tuple[Sealed, Parked | None]:
        """Return what a retry's state stands for, burnt by now. Raises Malformed("request_state"), StateUnavailable."""
        sealed = self._seal.open(turn.principal, turn.resource_url, turn.call, target.spec.name)
        if sealed.rounds > ROUNDS:
            raise Malformed("request_state")
        if not sealed.parked:
            return sealed, None
        parked = self.conversations.take(self._owner(turn), sealed.parked)
        if parked is None:
            raise Malformed("request_state")
        return sealed, parked

    async def answered(self, turn: Turn, target: Target, link: Link, sealed: Sealed) -> Retry | Refusal:
        """Return what the retry towards a modern upstream adds, each answer checked and decided.

        A legacy upstream that demanded addresses (-32042) is sent the request as it was.
        Raises Malformed("answer_invalid"), UpstreamFault("unanswered").
        """
        if sealed.ours:  # nothing of it is the upstream's business
            return Retry({}, sealed.rounds)
        responses: JSONObject = {}
        for key, question, told in self._answers(turn, target, sealed, all_of_them=link.opened.era == LEGACY):
            cleared = await self._clear_answer(turn, target, link, question, told, told.result)
            if isinstance(cleared, Refusal):
                return cleared
            responses[key] = cleared.body
            if link.opened.era == LEGACY and told.result.get("action") != "accept":
                raise UpstreamFault("unanswered")
        if link.opened.era == LEGACY:
            return Retry({}, sealed.rounds)
        return Retry(added(responses, sealed.state), sealed.rounds)

    async def deliver(
        self, turn: Turn, target: Target, parked: Parked, sealed: Sealed, credentials: Credentials
    ) -> Refusal | None:
        """Bring a modern client's answers to the legacy upstream that waits for them.

        Every answer is decided before the first is sent. Raises Malformed("answer_invalid"), UpstreamFault.
        """
        ready: list[Cleared] = []
        for key, question, told in self._answers(turn, target, sealed, all_of_them=True):
            if key not in parked.questions:
                raise Malformed("request_state")
            body = jsonrpc.build_response(parked.questions[key][0], told.result)
            cleared = await self._clear_answer(turn, target, parked.link, question, told, body)
            if isinstance(cleared, Refusal):
                return cleared
            ready.append(cleared)
        headers = await credentials()
        for cleared in ready:
            await parked.link.notify(cleared, headers)
        return None

    def _answers(
        self, turn: Turn, target: Target, sealed: Sealed, *, all_of_them: bool
    ) -> list[tuple[str, Question, Answer]]:
        """Return the answers of a retry to what was asked; others are left out. Raises Malformed("answer_invalid").

        all_of_them: none may be missing. A modern server is told those that are there, and asks again for the rest.
        """
        given = turn.call.params.get("inputResponses", {})
        if not isinstance(given, dict) or (all_of_them and not sealed.questions.keys() <= given.keys()):
            raise Malformed("answer_invalid")
        found: list[tuple[str, Question, Answer]] = []
        for key, kept in sealed.questions.items():
            if key not in given:
                continue
            question = questions.unsealed(kept)
            found.append((key, question, questions.answer(question, given[key], roots=target.spec.roots)))
        return found

    # -- inside --------------------------------------------------------------------------------------------

    def _parse(self, turn: Turn, target: Target, method: str, params: JSON, can: JSONObject) -> Question:
        found = questions.parse(
            method,
            params,
            can,
            upstream=target.spec.name,
            era=turn.call.era,
            elicitation_id=self._ids.new("e") if turn.call.era == LEGACY else "",
        )
        related: JSONObject = getattr(target, "related", {})  # a question that belongs to a task says so
        if not related:
            return found
        meta = found.params.get("_meta")
        named = {**(meta if isinstance(meta, dict) else {}), **related}
        return replace(found, params={**found.params, "_meta": named})

    def _required(
        self, turn: Turn, target: Target, result: JSONObject, rounds: int
    ) -> tuple[dict[str, Question], str | None]:
        """Return the questions and the state of an ``input_required`` result. Raises UpstreamFault("malformed")."""
        state = result.get("requestState")
        given = result.get("inputRequests", {})
        if (
            target.method not in METHODS
            or rounds > ROUNDS
            or not (given or state is not None)
            or not (state is None or isinstance(state, str))
        ):
            raise UpstreamFault("malformed", "a result asks in a way that no revision knows")
        try:
            asked = questions.listed(
                given,
                declared(turn, target.spec),
                upstream=target.spec.name,
                era=turn.call.era,
                new_id=lambda: self._ids.new("e"),
            )
        except Malformed:
            raise UpstreamFault("malformed", "a question has no known shape, or was not allowed") from None
        return asked, state

    async def _tell(self, turn: Turn, target: Target, asked: dict[str, Question], sealed: Sealed) -> str:
        """Answer a modern client with ``input_required``; return the exchange's outcome. Raises Malformed."""
        token = self._token(turn, sealed)

        def message(given: list[JSONObject]) -> JSONObject:
            result: JSONObject = {"resultType": "input_required", "requestState": token}
            if asked:
                entries = zip(asked.items(), given, strict=True)
                result["inputRequests"] = {key: {"method": q.method, "params": params} for (key, q), params in entries}
            return jsonrpc.build_response(turn.call.id, result)

        return await self._tell_all(turn, target, list(asked.values()), message)

    def _token(self, turn: Turn, sealed: Sealed) -> str:
        """Return a sealed state. One that looks like somebody's key by chance would be redacted: seal again."""
        token = ""
        for _ in range(TOKEN_TRIES):
            token = self._seal.seal(turn.principal, turn.resource_url, turn.call, sealed)
            if not self._guard.scanner.scan({"requestState": token}, Point.MCP_NOTIFY_SERVER, turn.principal.tenant):
                break
        return token

    async def _tell_all(
        self, turn: Turn, target: Target, asked: list[Question], message: Callable[[list[JSONObject]], JSONObject]
    ) -> str:
        """Decide about every question with its own facts, the last time about the whole message; send that.

        message: makes the whole message from the questions' parameters.
        """
        resource = self._house.resource(turn.principal.tenant, target.spec)
        version = turn.call.version
        given = [question.params for question in asked]
        for n, question in enumerate(asked[:-1]):
            verdict = await self._guard.clear(
                questions.ask_action(
                    question, turn.principal, resource, question.params, version=version, transport="http"
                ),
                turn.exchange,
            )
            if isinstance(verdict, Refusal):
                return await turn.refuse(verdict, tool_call=target.method == "tools/call")
            if not isinstance(verdict.body, dict):
                raise Malformed("question_shape")
            given[n] = verdict.body
        body = message(given)
        if asked:
            action = questions.ask_action(asked[-1], turn.principal, resource, body, version=version, transport="http")
        else:  # only a state: the upstream wants to be asked again
            action = response(Point.MCP_NOTIFY_SERVER, turn.principal, target.method, resource, body, version=version)
        whole = await self._guard.clear(action, turn.exchange)
        if isinstance(whole, Refusal):
            return await turn.refuse(whole, tool_call=target.method == "tools/call")
        await turn.out.final(whole)
        return "ok"

    async def _clear_answer(
        self, turn: Turn, target: Target, link: Link, question: Question, told: Answer, body: JSONObject
    ) -> Cleared | Refusal:
        resource = self._house.resource(turn.principal.tenant, target.spec)
        action = questions.answer_action(
            question,
            told,
            turn.principal,
            resource,
            body,
            version=link.opened.version,
            transport=link.transport,
        )
        return await self._guard.clear(action, turn.exchange)

    async def _decline(
        self, turn: Turn, target: Target, link: Link, rpc_id: RpcId, code: int, credentials: Credentials
    ) -> None:
        """Tell a legacy server in our own words that its question has no answer."""
        body = jsonrpc.build_error(rpc_id, code, _DECLINED.get(code, _DECLINED[-32603]))
        with contextlib.suppress(Refused):
            cleared = await self._house.clear(
                turn.principal.tenant,
                target.spec,
                "error",
                body,
                version=link.opened.version,
                point=Point.MCP_NOTIFY_CLIENT,
            )
            await link.notify(cleared, await credentials())

    @staticmethod
    def _owner(turn: Turn) -> str:
        principal = turn.principal
        return "\0".join((principal.tenant, principal.issuer, *principal.key, turn.resource_url))
