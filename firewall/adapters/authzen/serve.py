"""AuthZENApp: the ASGI shell of the decision point, on the data listener.

    POST /access/v1/evaluation · /access/v1/evaluations        registered enforcers, with a token for /access
    POST /access/v1/search/{subject,resource,action}           501: not offered, not advertised
    GET  /.well-known/authzen-configuration                    anybody

Errors are an error message as a JSON string; a no is 200 (Authorization API 1.0, Transport). ``X-Request-ID`` comes
back on every answer.
"""

from __future__ import annotations

from typing import Final, Protocol

from firewall.adapters.authzen.evaluate import Evaluator
from firewall.adapters.authzen.message import Batch, Evaluation, parse_evaluation, parse_evaluations
from firewall.adapters.authzen.settings import PREFIX, SCOPE, AuthZENSettings, Enforcer
from firewall.core.action import Headers
from firewall.core.bounds import MIB, REQUEST_READ_S
from firewall.core.errors import BartizanError, Malformed, Unauthenticated, fault_of
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import ResourceServer
from firewall.core.principal import Principal
from firewall.net import asgi
from firewall.net.asgi import Receive, Scope, Send
from firewall.wire import strict_json

WELL_KNOWN: Final = "/.well-known/authzen-configuration"
EVALUATION: Final = f"{PREFIX}/v1/evaluation"
EVALUATIONS: Final = f"{PREFIX}/v1/evaluations"
SEARCHES: Final = frozenset(f"{PREFIX}/v1/search/{what}" for what in ("subject", "resource", "action"))
REQUEST_ID: Final = b"x-request-id"
REQUEST_ID_CHARS: Final = 200
BODY_BYTES: Final = 1 * MIB
_BASE: Final[Headers] = (
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")


class Evaluates(Protocol):
    """What `evaluate.Evaluator` does."""

    async def decide(
        self, question: Evaluation, enforcer: Enforcer, caller: Principal, *, client_ip: str = ""
    ) -> JSONObject:
        """Return a Decision object."""


class AuthZENApp:
    """ASGI application. `handles` tells the data plane which paths are ours."""

    def __init__(self, settings: AuthZENSettings, auth: ResourceServer, evaluator: Evaluates | Evaluator) -> None:
        self._settings = settings
        self._auth = auth
        self._evaluator = evaluator
        self._resource = settings.public_url + PREFIX
        url = settings.public_url
        self._metadata = strict_json.dumps(
            {
                "policy_decision_point": url,
                "access_evaluation_endpoint": url + EVALUATION,
                "access_evaluations_endpoint": url + EVALUATIONS,
            }
        )

    def handles(self, path: str) -> bool:
        """Return whether a path belongs here."""
        return path.startswith(f"{PREFIX}/") or path == WELL_KNOWN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        echo: Headers = ()
        try:
            given = asgi.header_map(scope).get(REQUEST_ID)
            if given is not None:
                if not 0 < len(given) <= REQUEST_ID_CHARS or any(not 0x20 <= c <= 0x7E for c in given):
                    raise Malformed("params_invalid", "X-Request-ID must be printable ASCII of at most 200 characters")
                echo = ((REQUEST_ID, given),)
            reply = await self._answer(scope, receive)
        except Unauthenticated as error:
            challenges = self._auth.challenges(self._resource, error, SCOPE)
            reply = _error(401, fault_of(error).text, challenges)
        except BartizanError as error:
            if error.code == "client_gone":
                return
            known = fault_of(error)
            told = error.detail if error.code == "params_invalid" and error.detail else known.text
            reply = _error(known.status, told)
        except Exception:  # noqa: BLE001  the one blanket handler of this room; the evaluator has its own
            reply = _error(500, "The request could not be handled.")
        await asgi.write_fixed(send, FixedReply(reply.status, (*reply.headers, *echo), reply.body))

    async def _answer(self, scope: Scope, receive: Receive) -> FixedReply:
        path, method = scope["path"], scope["method"]
        if path == WELL_KNOWN:
            if method not in ("GET", "HEAD"):
                return _error(405, "Use GET.", ((b"allow", b"GET"),))
            return FixedReply(200, (*_BASE, (b"cache-control", b"public, max-age=300")), self._metadata)
        if path not in (EVALUATION, EVALUATIONS) and path not in SEARCHES:
            return _error(404, "Not found.")
        if method != "POST":
            return _error(405, "Use POST.", ((b"allow", b"POST"),))
        headers = asgi.header_map(scope)
        caller = await self._auth.admit(
            headers, self._resource, default_scope=SCOPE, method=method, path=path, address=asgi.client_ip(scope)
        )
        enforcer = self._settings.enforcers.get(caller.client_id)
        if (
            enforcer is None
            or enforcer.tenant not in ("", caller.tenant)
            or caller.kind != "service"
            or caller.subject != caller.client_id
        ):
            return _error(403, "This client is not registered as an enforcer.")
        if SCOPE not in caller.scopes:
            challenge = self._auth.challenge(self._resource, "scope_missing", SCOPE)
            return _error(403, "The scope access:evaluate is needed.", ((b"www-authenticate", challenge),))
        if path in SEARCHES:
            return _error(501, "Searches are not offered here.")
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise Malformed("media_type")
        value = strict_json.loads(await asgi.read_body(scope, receive, BODY_BYTES, REQUEST_READ_S))
        client = scope.get("client")
        client_ip = str(client[0]) if client else ""
        asked = parse_evaluation(value) if path == EVALUATION else parse_evaluations(value)
        if isinstance(asked, Evaluation):
            return _ok(await self._evaluator.decide(asked, enforcer, caller, client_ip=client_ip))
        return _ok({"evaluations": await self._all(asked, enforcer, caller, client_ip)})

    async def _all(self, batch: Batch, enforcer: Enforcer, caller: Principal, client_ip: str) -> list[JSON]:
        """Return decisions in order, up to the one that the semantic ends with."""
        found: list[JSON] = []
        for item in batch.items:
            if isinstance(item, Evaluation):
                decision = await self._evaluator.decide(item, enforcer, caller, client_ip=client_ip)
            else:
                decision = {"decision": False, "context": {"error": {"status": 400, "message": item}}}
            found.append(decision)
            permitted = decision["decision"] is True
            if batch.semantic == ("permit_on_first_permit" if permitted else "deny_on_first_deny"):
                break
        return found


def _ok(value: JSONObject) -> FixedReply:
    return FixedReply(200, (*_BASE, _NO_STORE), strict_json.dumps(value))


def _error(status: int, text: str, headers: Headers = ()) -> FixedReply:
    return FixedReply(status, (*_BASE, _NO_STORE, *headers), strict_json.dumps(text))
