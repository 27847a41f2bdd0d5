"""The decision point by the rules of AuthZEN 1.0, and by ours for other people's enforcers (DESIGN §6b-10)."""

import asyncio
from typing import Any

import pytest

from firewall.adapters.authzen.settings import Enforcer, settings_of
from firewall.config.model import AuthZENConfig, Config, EnforcerConfig
from firewall.core.errors import AuditUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.settings import ClientSettings
from firewall.wire import canonical
from mcp_gateway import lists
from tests.adapters.rig import DIRECT, EVALUATION, EVALUATIONS, TENANT, TOOL, Point, asked, make_point
from tests.support.door import ORIGIN, TIME
from tests.support.kit import ALLOW, principal

DENY: JSONObject = {
    **ALLOW,
    "decision": False,
    "effect": "deny",
    "risk": 80,
    "reasons": [{"rule": "t.no", "effect": "deny", "code": "no", "owasp": ["ASI02"], "severity": 80}],
}
APPROVE: JSONObject = {
    **DENY,
    "effect": "approve",
    "reasons": [{"rule": "t.ask", "effect": "approve", "code": "ask", "owasp": ["ASI09"], "severity": 50}],
}


def transform(*obligations: JSONObject) -> JSONObject:
    reason: JSONObject = {"rule": "t.mend", "effect": "transform", "code": "mend", "owasp": ["ASI02"], "severity": 40}
    return {**ALLOW, "effect": "transform", "reasons": [reason], "obligations": list(obligations)}


MASK: JSONObject = {"type": "mask_log", "pointer": "/params/arguments/path"}
MENDED = "/srv/public"
REPLACE: JSONObject = {"type": "replace", "pointer": "/params/arguments/path", "value": MENDED}
TAINT: JSONObject = {"type": "taint", "label": "secret"}


def mending(*obligations: JSONObject) -> Any:
    """Return a script that transforms, and is content with what it made."""

    def script(given: JSONObject) -> JSON:
        path = given["action"]["properties"]["arguments"]["path"]  # type: ignore[index,call-overload]
        return ALLOW if path == MENDED else transform(REPLACE, *obligations)

    return script


def yes(decision: dict[str, Any]) -> bool:
    assert set(decision) <= {"decision", "context"}
    assert isinstance(decision["decision"], bool)
    return decision["decision"]


# -- one question ---------------------------------------------------------------------------------------------


async def test_a_permitted_question_is_yes_with_the_id_of_its_record() -> None:
    point = await make_point()
    found = await point.decide()
    assert yes(found)
    (record,) = [r for r in point.kit.audit.records if r.get("kind") == "decision"]
    assert found["context"]["decision_id"] == record["decision_id"]
    assert found["context"]["policy_revision"] == "sha256:test"
    assert record["subject"] == point.subject
    assert [r["phase"] for r in point.kit.audit.records if "phase" in r] == ["intent", "outcome"]


async def test_a_no_is_200_and_says_nothing_of_rules() -> None:
    point = await make_point(lambda _input: DENY)
    found = await point.decide()
    assert not yes(found)
    assert found["context"]["reason_user"] == {"en": "This action is not allowed by policy."}
    assert "t.no" not in str(found)


async def test_policy_is_asked_about_our_own_facts_and_what_stands_in_the_message() -> None:
    point = await make_point()
    lies = {"server": "files", "pin": "approved", "trust": "trusted", "effect_class": "read", "state": "approved"}
    point.registry.configure(TENANT, "mcp", "files", {"url": "https://files.example/mcp"})
    await point.decide(resource={"type": "tool", "id": "wipe", "properties": lies})
    await point.decide()
    wipe, read = point.engine.inputs
    assert wipe["resource"]["properties"]["pin"] == "new"  # type: ignore[index,call-overload]
    assert wipe["resource"]["properties"]["effect_class"] == "write"  # type: ignore[index,call-overload]
    assert wipe["resource"]["properties"]["schema"] == "mismatch"  # type: ignore[index,call-overload]
    assert read["resource"] == {
        "type": "mcp_tool",
        "id": "files/read_file",
        "properties": {
            "server": "files",
            "trust": "trusted",
            "network": "public",
            "state": "approved",
            "tenants": [TENANT],
            "effect_class": "read",
            "pin": "approved",
            "hash": read["resource"]["properties"]["hash"],  # type: ignore[index,call-overload]
            "scope": "files:read",
            "schema": "ok",
        },
    }
    assert read["action"]["properties"]["arguments"] == {"path": "/srv/a.txt"}  # type: ignore[index,call-overload]
    assert read["point"] == "mcp.tool.call"


@pytest.mark.parametrize("arguments", [{}, {"path": 1}, {"path": "/a", "more": 1}])
async def test_arguments_are_held_against_the_pinned_schema(arguments: JSONObject) -> None:
    point = await make_point()
    await point.decide(action={"name": "tools/call", "properties": {"arguments": arguments}})
    assert point.engine.inputs[0]["resource"]["properties"]["schema"] == "mismatch"  # type: ignore[index,call-overload]


async def test_a_definition_that_the_enforcer_sees_otherwise_is_changed() -> None:
    point = await make_point()
    seen = {"server": "files", "hash": "sha256:" + "0" * 64}
    await point.decide(resource={"type": "tool", "id": "read_file", "properties": seen})
    assert point.engine.inputs[0]["resource"]["properties"]["pin"] == "changed"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("resource", "server"),
    [
        ({"type": "tool", "id": "read_file", "properties": {"server": f"{ORIGIN}/mcp/files"}}, True),
        ({"type": "tool", "id": "files/read_file"}, True),
        ({"type": "tool", "id": "read_file"}, False),
        ({"type": "tool", "id": "other/read_file"}, False),
        ({"type": "tool", "id": "read_file", "properties": {"server": "other"}}, False),
        ({"type": "tool", "id": "read_file", "properties": {"server": "https://evil.example/mcp/files"}}, False),
        ({"type": "tool", "id": "read_file", "properties": {"server": 1}}, False),
        ({"type": "prompt", "id": "read_file", "properties": {"server": "files"}}, False),
    ],
)
async def test_the_server_is_named_or_it_is_no(resource: Any, server: bool) -> None:
    point = await make_point()
    found = await point.decide(resource=resource)
    assert yes(found) == server
    assert bool(point.engine.inputs) == server


@pytest.mark.parametrize(
    ("method", "kind", "point_name"),
    [
        ("initialize", "mcp_server", "mcp.session.open"),
        ("server/discover", "mcp_server", "mcp.session.open"),
        ("tools/list", "mcp_server", "mcp.tool.list"),
        ("resources/list", "mcp_server", "mcp.resource.list"),
        ("resources/templates/list", "mcp_server", "mcp.resource.list"),
        ("prompts/list", "mcp_server", "mcp.prompt.list"),
        ("logging/setLevel", "mcp_server", "mcp.notify.client"),
        ("tasks/list", "mcp_server", "mcp.task.get"),
    ],
)
async def test_questions_about_a_server_carry_its_audience(method: str, kind: str, point_name: str) -> None:
    point = await make_point()
    found = await point.decide(action={"name": method}, resource={"type": kind, "id": f"{ORIGIN}/mcp/files"})
    assert yes(found)
    assert point.engine.inputs[0]["point"] == point_name


PLAN: JSONObject = {"name": "plan", "description": "Plans.", "arguments": [{"name": "day", "required": False}]}


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("file:///srv/a.txt", True),
        ("notes://2026/11", True),
        ("notes://2026/11/23/x", False),
        ("file:///srv/../etc/passwd", False),
        ("file:///etc/passwd", False),
        ("FILE:///srv/a.txt", False),
    ],
)
async def test_a_uri_is_asked_about_by_its_listing_or_its_template(uri: str, known: bool) -> None:
    point = await make_point()
    listed: JSONObject = {"name": "a", "uri": "file:///srv/a.txt"}
    template: JSONObject = {"name": "n", "uriTemplate": "notes://{year}/{month}"}
    for kind, raw, name in (
        ("resource", listed, "file:///srv/a.txt"),
        ("template", template, "notes://{year}/{month}"),
    ):
        value = lists.definition(raw, kind).value  # type: ignore[arg-type]
        point.definitions.note(value)
        point.pins.observe(TENANT, "files", kind, name, canonical.digest(value), trust=True)  # type: ignore[arg-type]
    resource = {"type": "resource", "id": uri, "properties": {"server": "files"}}
    for method in ("resources/read", "resources/subscribe"):
        assert yes(await point.decide(action={"name": method}, resource=resource)) == known
    assert [i["resource"]["properties"]["pin"] for i in point.engine.inputs] == ["approved"] * (2 * known)  # type: ignore[index,call-overload]
    assert all(i["action"]["properties"]["arguments"]["uri"] == uri for i in point.engine.inputs)  # type: ignore[index,call-overload]


@pytest.mark.parametrize(("name", "schema"), [("day", "ok"), ("night", "mismatch")])
async def test_a_completion_is_asked_about_by_its_prompt_and_argument(name: str, schema: str) -> None:
    point = await make_point()
    value = lists.definition(PLAN, "prompt").value
    point.definitions.note(value)
    point.pins.observe(TENANT, "files", "prompt", "plan", canonical.digest(value), trust=True)
    resource = {"type": "prompt", "id": "plan", "properties": {"server": "files"}}
    action = {"name": "completion/complete", "properties": {"argument": {"name": name, "value": "mon"}}}
    assert yes(await point.decide(action=action, resource=resource))
    (seen,) = point.engine.inputs
    assert seen["point"] == "mcp.completion.ask"
    assert seen["resource"]["properties"]["schema"] == schema  # type: ignore[index,call-overload]
    assert seen["action"]["properties"]["arguments"] == {"argument": {"name": name, "value": "mon"}}  # type: ignore[index,call-overload]
    assert not yes(await point.decide(action={"name": "completion/complete"}, resource=resource))


@pytest.mark.parametrize(
    "method", ["tools/destroy", "ping", "notifications/cancelled", "TOOLS/CALL", "tools/call ", "*", "can_read"]
)
async def test_unknown_methods_are_denied_and_recorded(method: str) -> None:
    point = await make_point()
    found = await point.decide(action={"name": method})
    assert not yes(found)
    assert point.engine.inputs == []
    (record,) = [r for r in point.kit.audit.records if r["kind"] == "authzen"]
    assert (record["code"], record["client"]) == ("method_unknown", "svc-basic")
    assert record["decision_id"] == found["context"]["decision_id"]


async def test_the_stop_of_an_operator_counts_here_too() -> None:
    point = await make_point()
    point.kit.kill_switch.pull(TENANT, "upstream", "files", by="x")
    assert not yes(await point.decide())
    assert point.engine.inputs == []


@pytest.mark.parametrize(
    ("scope", "name"), [("client", "svc-basic"), ("upstream", "authzen"), ("all", "*"), ("upstream", "mcp")]
)
async def test_an_enforcer_is_stopped_like_everybody(scope: Any, name: str) -> None:
    point = await make_point()
    assert yes(await point.decide())
    point.kit.kill_switch.pull(TENANT, scope, name, by="x")
    assert not yes(await point.decide())


# -- approve and transform ---------------------------------------------------------------------------------------


async def test_approve_is_no() -> None:
    point = await make_point(lambda _input: APPROVE)
    found = await point.decide()
    assert not yes(found)
    assert (found["context"]["effect"], found["context"]["requires"]) == ("approve", "approval")


@pytest.mark.parametrize(
    ("registered", "answer"),
    [
        ((), False),
        (("replace",), False),
        (("mask_log",), False),
        (("redact", "clean", "notify"), False),
        (("replace", "mask_log"), True),
        (("replace", "mask_log", "redact"), True),
    ],
)
async def test_transform_is_no_unless_every_duty_was_registered(registered: tuple[str, ...], answer: bool) -> None:
    point = await make_point(mending(MASK), obligations=frozenset(registered))
    found = await point.decide()
    assert yes(found) == answer
    assert found["context"]["effect"] == "transform"
    assert ("obligations" in found["context"]) == answer
    if answer:
        assert [o for o in found["context"]["obligations"] if o["type"] == "replace"] == [REPLACE]
    outcome = [r for r in point.kit.audit.records if r.get("phase") == "outcome"]
    assert len(outcome) == 1


async def test_a_label_that_a_decision_raises_stays_with_the_caller() -> None:
    point = await make_point(lambda _input: {**ALLOW, "obligations": [TAINT]})
    assert yes(await point.decide())
    who = principal(tenant=TENANT, subject=point.subject, client_id="https://agent.example/client.json")
    assert point.kit.labels.current(who)


# -- whom it is about ----------------------------------------------------------------------------------------------


async def test_of_a_person_we_know_roles_are_ours_and_scopes_are_cut() -> None:
    point = await make_point(scopes=("*",))
    told = {"scopes": ["files:read", "git:write"], "roles": ["admin"]}
    await point.decide(subject={"type": "user", "id": "ada", "properties": told})
    subject = point.engine.inputs[0]["subject"]
    assert subject["properties"]["roles"] == ["dev"]  # type: ignore[index,call-overload]
    assert subject["properties"]["scopes"] == ["files:read"]  # type: ignore[index,call-overload]


async def test_an_enforcer_vouches_for_no_more_than_it_is_registered_for() -> None:
    point = await make_point(scopes=("files:read",))
    told = {"scope": "files:read files:write"}
    await point.decide(subject={"type": "user", "id": "ada", "properties": told})
    assert point.engine.inputs[0]["subject"]["properties"]["scopes"] == ["files:read"]  # type: ignore[index,call-overload]


async def test_a_stranger_is_no_unless_the_enforcer_may_ask_about_strangers() -> None:
    strange = {"type": "user", "id": "eve@elsewhere.example", "properties": {"scopes": ["files:read"], "roles": ["x"]}}
    assert not yes(await (await make_point()).decide(subject=strange))
    point = await make_point(strangers=True, roles=frozenset({"y"}))
    assert yes(await point.decide(subject=strange))
    subject = point.engine.inputs[0]["subject"]
    assert subject["id"] == "authzen#eve@elsewhere.example"  # type: ignore[index,call-overload]
    assert subject["properties"]["roles"] == []  # type: ignore[index,call-overload]


async def test_a_disabled_account_is_no_and_not_a_stranger() -> None:
    point = await make_point(strangers=True)
    users = point.door.identity.users
    users.update(TENANT, point.subject, roles=(), scopes=("*",), disabled=True)
    assert not yes(await point.decide())
    assert point.engine.inputs == []


async def test_a_stop_of_somebody_at_a_direct_issuer_counts_here_too() -> None:
    point = await make_point(strangers=True)
    who = {"type": "identity", "id": "00u1", "properties": {"issuer": DIRECT, "scopes": ["files:read"]}}
    assert yes(await point.decide(subject=who))
    assert point.engine.inputs[-1]["subject"]["id"] == "corp|00u1"  # type: ignore[index,call-overload]
    point.kit.guard.kill_switch.pull(TENANT, "subject", "corp|00u1", by="ann")
    assert not yes(await point.decide(subject=who))
    assert yes(await point.decide(subject={**who, "id": "00u2"}))


@pytest.mark.parametrize(
    ("issuer", "named"),
    [(DIRECT, "corp|planner"), ("https://other.example", "https://other.example#planner"), (ORIGIN, "planner")],
)
async def test_a_client_of_another_issuer_has_the_name_that_it_has_with_a_token(issuer: str, named: str) -> None:
    point = await make_point(strangers=True)
    who = {"type": "identity", "id": "ada", "properties": {"issuer": issuer, "scopes": ["files:read"]}}
    if issuer == ORIGIN:
        who["id"] = point.subject
    for client in ("tool", "planner" if issuer != ORIGIN else "corp|planner"):
        # What stops a client of ours, or another issuer's, by a name that is not this one's.
        point.kit.guard.kill_switch.pull(TENANT, "client", client, by="ann")
    assert yes(await point.decide(subject=who, context={"agent": "planner"}))
    chain = point.engine.inputs[-1]["context"]["actor_chain"]  # type: ignore[index,call-overload]
    assert chain[1]["sub"] == named  # type: ignore[index,call-overload]
    point.kit.guard.kill_switch.pull(TENANT, "client", named, by="ann")
    assert not yes(await point.decide(subject=who, context={"agent": "planner"}))


@pytest.mark.parametrize("issuer", [f"{ORIGIN}/", ORIGIN.upper()])
async def test_nobody_of_ours_becomes_a_stranger_by_another_spelling_of_our_issuer(issuer: str) -> None:
    point = await make_point(strangers=True)
    point.door.identity.users.update(TENANT, point.subject, roles=(), scopes=(), disabled=True)
    for named in (issuer, ORIGIN):
        who = {"type": "identity", "id": point.subject, "properties": {"issuer": named, "scopes": ["files:read"]}}
        assert not yes(await point.decide(subject=who))


async def test_an_account_is_found_by_what_its_issuer_calls_it() -> None:
    point = await make_point()
    issuer = "https://idp.example"
    point.door.identity.links.link(TENANT, issuer, "00u1", point.subject)
    told = {"issuer": issuer, "scopes": ["files:read"]}
    assert yes(await point.decide(subject={"type": "user", "id": "00u1", "properties": told}))
    assert point.engine.inputs[0]["subject"]["id"] == point.subject  # type: ignore[index,call-overload]
    other = {**told, "issuer": "https://other.example"}  # the twin: another issuer's 00u1 is somebody else
    assert not yes(await point.decide(subject={"type": "user", "id": "00u1", "properties": other}))
    point.door.identity.users.update(TENANT, point.subject, roles=(), scopes=("*",), disabled=True)
    assert not yes(await point.decide(subject={"type": "user", "id": "00u1", "properties": told}))


@pytest.mark.parametrize("where", ["subject", "resource", "context"])
async def test_an_enforcer_speaks_for_its_own_tenant_alone(where: str) -> None:
    point = await make_point()
    body = asked()
    if where == "context":
        body["context"]["tenant"] = "beta"
    else:
        body[where]["properties"] = {**body[where]["properties"], "tenant": "beta"}
    assert not yes(await point.decide(**body))
    assert point.engine.inputs == []


async def test_another_tenants_enforcer_finds_no_account_of_ours() -> None:
    point = await make_point()
    token = await point.token("svc-beta")
    body = asked(subject={"type": "user", "id": point.subject, "properties": {"scopes": ["files:read"]}})
    found = (await point.ask(body, token=token)).json()
    assert not yes(found)
    assert point.engine.inputs == []


@pytest.mark.parametrize(("tenant", "allowed"), [("acme", True), ("beta", False)])
async def test_a_name_of_the_file_is_no_enforcer_when_another_tenants_operator_registered_it(
    tenant: str, allowed: bool
) -> None:
    """Ids are given out once in a node: whoever of another tenant comes first has the name, and nothing by it."""
    point = await make_point()
    clients = point.door.identity.registered
    wanted = ClientSettings(
        "gate",
        "Gate",
        auth_method="client_secret_basic",
        grant_types=("client_credentials",),
        scopes=("*",),
        tenant=tenant,
    )
    point.app._settings.enforcers["gate"] = Enforcer("gate", scopes=("files:*",), tenant="acme")  # type: ignore[index]
    secret = clients.add(wanted, by="somebody").secret
    token = await point.token("gate", secret=secret)
    assert ((await point.ask(asked(), token=token)).status_code == 200) is allowed


def test_a_name_of_the_file_must_be_of_the_nodes_tenant_and_an_issuers_client_of_whatever_the_issuer_says() -> None:
    enforcers = {"gate": EnforcerConfig(), "corp|gateway": EnforcerConfig()}
    config = Config.model_construct(public_url=ORIGIN, tenant="acme", authzen=AuthZENConfig(enforcers=enforcers))
    found = settings_of(config).enforcers
    assert (found["gate"].tenant, found["corp|gateway"].tenant) == ("acme", "")


async def test_the_chain_of_callers_is_the_person_the_agent_the_enforcer() -> None:
    point = await make_point()
    await point.decide()
    chain = point.engine.inputs[0]["context"]["actor_chain"]  # type: ignore[index,call-overload]
    assert [a["sub"] for a in chain] == [point.subject, "https://agent.example/client.json", "svc-basic"]  # type: ignore[index,union-attr,call-overload]


# -- who may ask ---------------------------------------------------------------------------------------------------


async def test_without_a_token_it_is_401_with_a_challenge_and_no_word_of_a_decision() -> None:
    point = await make_point()
    async with point.http() as http:
        answer = await http.post(EVALUATION, json=asked())
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert 'scope="access:evaluate"' in answer.headers["www-authenticate"]
    assert isinstance(answer.json(), str)


async def test_a_token_for_another_audience_opens_nothing_here_and_ours_nothing_else() -> None:
    point = await make_point()
    token = await point.token(resource=TIME, scope="time:read")
    assert (await point.ask(asked(), token=token)).status_code == 401
    ours = await point.token()
    with pytest.raises(Exception, match="token_invalid"):
        point.door.verified(ours, TIME)


async def test_a_client_that_is_no_registered_enforcer_is_403() -> None:
    point = await make_point()
    assert (await point.ask(asked(), token=await point.token("svc-other"))).status_code == 403
    assert (await point.ask(asked())).status_code == 200  # the twin


async def test_a_person_is_no_enforcer_even_with_the_scope() -> None:
    point = await make_point()
    token = point.door.identity.operator_tokens.mint_for_operator("/access", tenant=TENANT).token
    assert (await point.ask(asked(), token=token)).status_code == 403


# -- the wire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
async def test_a_required_member_that_is_missing_is_400(missing: str) -> None:
    point = await make_point()
    body = asked()
    del body[missing]
    answer = await point.ask(body)
    assert answer.status_code == 400
    assert answer.json() == f"{missing} is missing"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "ada"},
        {"subject": {"id": "ada"}},
        {"subject": {"type": "user"}},
        {"subject": {"type": "user", "id": 7}},
        {"subject": {"type": "user", "id": ""}},
        {"subject": {"type": "user", "id": "a", "properties": []}},
        {"action": {}},
        {"action": {"name": None}},
        {"resource": {"type": "tool"}},
        {"resource": {"type": "tool", "id": "a" * 9000}},
        {"context": "now"},
    ],
)
async def test_a_member_of_another_type_is_400(change: Any) -> None:
    point = await make_point()
    assert (await point.ask(asked(**change))).status_code == 400
    assert point.engine.inputs == []


async def test_members_that_nobody_knows_are_ignored() -> None:
    point = await make_point()
    assert yes(await point.decide(future={"x": 1}, options={"another_option": "value"}))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b'{"subject":{},"subject":{}}', 400),
        (b'{"subject":', 400),
        (b"\xff", 400),
        (b"[" * 200 + b"]" * 200, 400),
        (b'{"a":"' + b"a" * (1 << 20) + b'"}', 413),
    ],
)
async def test_a_body_is_read_strictly_and_bounded(body: bytes, status: int) -> None:
    point = await make_point()
    answer = await point.ask(body)
    assert answer.status_code == status
    assert isinstance(answer.json(), str)


async def test_another_media_type_is_415_and_another_method_405() -> None:
    point = await make_point()
    token = {"Authorization": f"Bearer {await point.token()}"}
    async with point.http() as http:
        answer = await http.post(EVALUATION, content=b"{}", headers={**token, "content-type": "text/plain"})
        assert answer.status_code == 415
        assert (await http.get(EVALUATION, headers=token)).status_code == 405
        assert (await http.post("/access/v2/evaluation", headers=token)).status_code == 404


@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
async def test_the_request_id_comes_back_with_answers_and_errors(path: str) -> None:
    point = await make_point()
    name = "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"
    for body in (asked(), {}):
        answer = await point.ask(body, path, **{"X-Request-ID": name})
        assert answer.headers["x-request-id"] == name
    async with point.http() as http:
        assert (await http.post(path, headers={"X-Request-ID": name})).headers["x-request-id"] == name
    assert "x-request-id" not in (await point.ask(asked(), path)).headers
    assert (await point.ask(asked(), path, **{"X-Request-ID": "a" * 201})).status_code == 400


async def test_searches_are_not_offered_and_not_advertised() -> None:
    point = await make_point()
    for what in ("subject", "resource", "action"):
        assert (await point.ask(asked(), f"/access/v1/search/{what}")).status_code == 501
    async with point.http() as http:
        answer = await http.get("/.well-known/authzen-configuration")
        assert (await http.post("/access/v1/search/subject")).status_code == 401
    assert answer.json() == {
        "policy_decision_point": ORIGIN,
        "access_evaluation_endpoint": f"{ORIGIN}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{ORIGIN}/access/v1/evaluations",
    }
    assert answer.headers["content-type"] == "application/json"


# -- several questions -----------------------------------------------------------------------------------------------


def by_path(answers: dict[str, JSONObject]) -> Any:
    """Return a script that answers by the path in the arguments."""

    def script(given: JSONObject) -> JSON:
        return answers[given["action"]["properties"]["arguments"]["path"]]  # type: ignore[index,call-overload,return-value]

    return script


def item(path: str) -> dict[str, Any]:
    return {"action": {"name": "tools/call", "properties": {"arguments": {"path": path}}}}


async def boxcar(point: Point, *paths: str, semantic: str = "", **more: Any) -> Any:
    body = asked(evaluations=[item(p) for p in paths], **more)
    body["subject"] = {**body["subject"], "id": point.subject}
    if semantic:
        body["options"] = {"evaluations_semantic": semantic}
    return await point.ask(body, EVALUATIONS)


@pytest.mark.parametrize(
    ("semantic", "paths", "answers"),
    [
        ("", "yny", [True, False, True]),
        ("execute_all", "yny", [True, False, True]),
        ("deny_on_first_deny", "yyny", [True, True, False]),
        ("deny_on_first_deny", "yy", [True, True]),
        ("deny_on_first_deny", "nyy", [False]),
        ("permit_on_first_permit", "nnyn", [False, False, True]),
        ("permit_on_first_permit", "nn", [False, False]),
        ("permit_on_first_permit", "yn", [True]),
    ],
)
async def test_several_questions_are_answered_by_their_semantic(semantic: str, paths: str, answers: list[bool]) -> None:
    point = await make_point(by_path({"y": ALLOW, "n": DENY}))
    answer = await boxcar(point, *paths, semantic=semantic)
    assert [d["decision"] for d in answer.json()["evaluations"]] == answers
    assert len(point.engine.inputs) == len(answers)  # what comes after the end is not evaluated
    assert "decision" not in answer.json()
    assert len([r for r in point.kit.audit.records if r.get("phase") in ("intent", "refused")]) == len(answers)


async def test_an_unknown_semantic_is_400() -> None:
    point = await make_point()
    assert (await boxcar(point, "a", semantic="first_come")).status_code == 400


async def test_defaults_are_replaced_whole_and_never_mixed() -> None:
    point = await make_point()
    body = asked(evaluations=[{}, {"resource": {"type": "tool", "id": "files/read_file"}}, {"action": {}}])
    body["subject"] = {**body["subject"], "id": point.subject}
    answers = (await point.ask(body, EVALUATIONS)).json()["evaluations"]
    assert [a["decision"] for a in answers] == [True, True, False]
    assert answers[2]["context"]["error"] == {"status": 400, "message": answers[2]["context"]["error"]["message"]}


async def test_without_defaults_every_item_stands_for_itself() -> None:
    point = await make_point()
    whole = asked(subject={"type": "user", "id": point.subject, "properties": {"scopes": ["files:read"]}})
    answers = (await point.ask({"evaluations": [whole, {"subject": whole["subject"]}, 7]}, EVALUATIONS)).json()
    assert [a["decision"] for a in answers["evaluations"]] == [True, False, False]


@pytest.mark.parametrize("entries", [None, []])
async def test_no_items_are_one_question(entries: Any) -> None:
    point = await make_point()
    body = asked(subject={"type": "user", "id": point.subject, "properties": {"scopes": ["files:read"]}})
    if entries is not None:
        body["evaluations"] = entries
    found = (await point.ask(body, EVALUATIONS)).json()
    assert yes(found)


async def test_too_many_items_are_400_and_nothing_is_evaluated() -> None:
    point = await make_point()
    assert (await boxcar(point, *["a"] * 65)).status_code == 400
    assert point.engine.inputs == []
    assert (await boxcar(point, *["a"] * 64)).status_code == 200


async def test_a_failed_item_counts_as_a_denial_for_the_semantic() -> None:
    point = await make_point()
    body = asked(evaluations=[{"action": {"name": "unknown/method"}}, item("/a")])
    body["subject"] = {**body["subject"], "id": point.subject}
    body["options"] = {"evaluations_semantic": "deny_on_first_deny"}
    assert [d["decision"] for d in (await point.ask(body, EVALUATIONS)).json()["evaluations"]] == [False]


# -- failure -----------------------------------------------------------------------------------------------------------


async def test_an_engine_that_fails_is_no() -> None:
    point = await make_point(lambda _input: b"not json")
    assert not yes(await point.decide())


@pytest.mark.parametrize("path", ["known", "unknown"])
async def test_what_cannot_be_recorded_is_no(path: str) -> None:
    point = await make_point()
    point.kit.audit.broken = True
    action = {} if path == "known" else {"action": {"name": "no/such"}}
    found = await point.decide(**action)
    assert not yes(found)
    assert found["context"]["reason_user"]["en"] == "No record could be written; nothing was sent."


async def test_a_bug_of_ours_is_no_and_tells_nothing() -> None:
    point = await make_point()

    def broken(_digest: str) -> JSON:
        raise RuntimeError("secret detail")

    object.__setattr__(point.app._evaluator.house, "definition", broken)  # type: ignore[union-attr]
    found = await point.decide()
    assert not yes(found)
    assert "secret" not in str(found)


async def test_many_at_once_are_answered_each_with_its_own() -> None:
    point = await make_point(by_path({"y": ALLOW, "n": DENY}))
    token = await point.token()
    bodies = [asked(**item("y" if n % 2 else "n")) for n in range(20)]
    for body in bodies:
        body["subject"] = {**body["subject"], "id": point.subject}
    answers = await asyncio.gather(*(point.ask(b, token=token) for b in bodies))
    assert [a.json()["decision"] for a in answers] == [bool(n % 2) for n in range(20)]
    assert len({a.json()["context"]["decision_id"] for a in answers}) == 20


def test_the_tool_of_these_tests_is_what_its_pin_says() -> None:
    assert TOOL["name"] == "read_file"
    assert AuditUnavailable("x").code == "x"
