"""Who is let in, and that a form came from our own page."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute

from firewall.admin import console
from firewall.admin.access import Access
from firewall.admin.api import Need
from firewall.admin.caller import Caller
from firewall.admin.rights import GIVEN, MATRIX, ROLES, SECOND, allowed, known
from tests.admin.rig import OWN, SCRIPT, TENANT, Room
from tests.project.test_documents import generator
from tests.support.door import PASSWORD

FORMS = {
    "/pins/approve": "pins.approve",
    "/servers/move": "registry.move",
    "/stops/pull": "kill.pull",
    "/stops/release": "kill.lift",
    "/approvals/{approval_id}": "approvals.withdraw",  # of its three decisions the one that most may take
    "/people/disable": "users.disable",
    "/people/enable": "users.admin",
    "/people/remove": "users.admin",
    "/people/end-sessions": "sessions.admin",
    "/confirm": "session.confirm",
    "/confirm/{provider}": "session.confirm",
    "/sign-out": "session.end",
}
OPEN = {"/sign-in", "/first", "/sign-in/{provider}", "/callback/{provider}"}


def routes(room: Room) -> list[tuple[str, str, str]]:
    """Return every route of the application with its method and the act of the matrix that it is."""
    found = []
    app = console.make(room.parts, room.app.access)
    todo = list(app.routes)  # type: ignore[attr-defined]
    while todo:
        route = todo.pop()
        if not isinstance(route, APIRoute):
            todo.extend(route.original_router.routes)
            continue
        needs = [d.call.act for d in route.dependant.dependencies if isinstance(d.call, Need)]
        act = needs[0] if needs else FORMS.get(route.path, "")
        found += [(method, route.path, act) for method in route.methods]
    return found


def fill(path: str) -> str:
    values = {
        "{some_id}": "x_1",
        "{kind}": "mcp",
        "{name}": "time",
        "{verb}": "approve",
        "{bearer_id}": "0" * 16,
        "{approval_id}": "a_none",
        "{provider}": "corp",
        "{client_id}": "c_none",
    }
    for name, value in values.items():
        path = path.replace(name, value)
    return path


def test_every_route_names_the_act_that_it_is_and_the_matrix_knows_it(room: Room) -> None:
    found = routes(room)
    assert len(found) > 40
    assert {path for _, path, act in found if not act} == OPEN
    assert {act for _, _, act in found if act} <= MATRIX.keys()


def test_the_page_of_the_api_lists_every_route_with_its_act(room: Room) -> None:
    told = {(method, path, act) for method, path, act, _ in generator(Path(__file__).parents[2]).routes()}
    assert told == {row for row in routes(room) if row[1].startswith("/api/")}


def test_every_act_of_the_matrix_has_a_route_or_a_deed(room: Room) -> None:
    used = {act for _, _, act in routes(room)} | set(SECOND) | {"approvals.decide"}
    assert MATRIX.keys() <= used


def test_the_methods_of_a_path_are_about_one_thing(room: Room) -> None:
    """Chosen by us: whoever may read a path's rows learns with it what its other methods make or move."""
    about: dict[str, set[str]] = {}
    for _, path, act in routes(room):
        if path.startswith("/api/") and act:
            about.setdefault(path, set()).add(act.partition(".")[0])
    assert len(about) > 30
    assert {path: things for path, things in about.items() if len(things) > 1} == {
        "/api/v1/tokens": {"tokens", "resources"}  # what a token can be minted for
    }


def test_what_nobody_wrote_down_is_nobodys() -> None:
    for role in ROLES:
        assert not allowed("planet.destroy", [role])
    assert not any(allowed(act, ["dev", "root", ""]) for act in MATRIX)


def test_the_owner_decides_nothing_as_a_second_person() -> None:
    assert MATRIX["approvals.decide"].roles == {"approver"}


async def test_op_07_a_stranger_gets_nothing_from_any_route(room: Room) -> None:
    async with room.http() as http:
        for method, path, role in routes(room):
            if not role:
                continue
            api = path.startswith("/api/")  # where a form is refused by its type, before anybody is asked for
            sent: dict[str, Any] = {} if method != "POST" else {"json": {}} if api else {"data": {"x": "1"}}
            answer = await http.request(method, fill(path), headers=SCRIPT, **sent)
            if path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"] == "sign_in"
            else:
                assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), (method, path)


async def ask(http: httpx2.AsyncClient, method: str, path: str, csrf: str = "") -> httpx2.Response:
    """Ask one route with a form or JSON that its page would send, as empty as can be."""
    headers = {**SCRIPT, "x-csrf-token": csrf}
    if method != "POST":
        return await http.request(method, fill(path), headers=headers)
    if path.startswith("/api/"):
        body = {"digest": "sha256:" + "0" * 64} if "/approvals/" in path else {}
        return await http.post(fill(path), headers=headers, json=body)
    data = {"csrf": csrf, "decision": "withdraw"} if "/approvals/" in path else {"csrf": csrf}
    return await http.post(fill(path), headers=headers, data=data)


@pytest.mark.parametrize("role", GIVEN)
async def test_a_role_reaches_its_own_routes_and_no_other_one(room: Room, role: str) -> None:
    browser = await room.person(role)
    csrf = await browser.csrf()
    for method, path, act in routes(room):
        if not act or path in ("/sign-out", "/api/v1/doctor") or path.startswith("/confirm"):
            continue
        answer = await ask(browser.http, method, path, csrf)
        assert (answer.status_code == 403) == (not allowed(act, [role])), (method, path, act, answer.text)


async def test_the_owner_reaches_at_the_socket_what_the_matrix_says(room: Room) -> None:
    async with room.owner() as owner:
        for method, path, act in routes(room):
            if not act or path == "/api/v1/doctor":
                continue
            answer = await ask(owner, method, path)
            assert (answer.status_code == 403) == (not allowed(act, ["owner"])), (method, path, act, answer.text)


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_script_reaches_what_its_role_may_and_nothing_that_needs_a_person(room: Room, role: str) -> None:
    async with room.owner() as owner, room.http() as http:
        bearer = (await owner.post("/api/v1/bearers", json={"role": role})).json()["bearer"]
        http.headers["authorization"] = f"Bearer {bearer}"
        for method, path, act in routes(room):
            if not act or path in ("/sign-out", "/api/v1/doctor") or path.startswith("/confirm"):
                continue
            answer = await ask(http, method, path)
            may = allowed(act, [role]) and not MATRIX[act].fresh
            assert (answer.status_code == 403) == (not may), (method, path, act, answer.text)


async def test_op_07_an_agents_token_opens_no_route_and_no_command(room: Room) -> None:
    tokens = room.door.identity.operator_tokens
    token = tokens.mint_for_operator("/mcp/time", ("time:read", "time:write"), tenant=TENANT).token
    assert room.door.verified(token)  # it is good where it belongs
    async with room.http() as http:
        for header in (f"Bearer {token}", f"DPoP {token}", f"Basic {token}"):
            http.headers["authorization"] = header
            for method, path, act in routes(room):
                answer = await ask(http, method, path)
                if act:
                    assert answer.status_code == (401 if path.startswith("/api/") else 303), (method, path)


@pytest.mark.parametrize("control", ["on", "off"])
async def test_op_07_a_stranger_who_reads_the_api(room: Room, control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the control off nobody is asked who they are, and everybody is what the node's owner is."""
    if control == "off":
        nobody = Caller("", TENANT, ("owner",), "socket")
        monkeypatch.setattr(Access, "caller", lambda *_args, **_more: nobody)
    async with room.http() as http:
        for path in ("/api/v1/status", "/api/v1/users", "/api/v1/doctor"):
            answer = await http.get(path, headers=SCRIPT)
            assert answer.status_code == (200 if control == "off" else 401), path


async def test_a_bearer_of_the_owner_is_let_in_with_its_role(room: Room) -> None:
    """The twin of the test above: the same header with our own bearer."""
    async with room.owner() as owner, room.http() as http:
        made = (await owner.post("/api/v1/bearers", json={"role": "viewer"})).json()
        headers = {"Authorization": f"Bearer {made['bearer']}"}
        assert (await http.get("/api/v1/status", headers=headers)).json()["you"]["role"] == "viewer"
        assert (await http.post("/api/v1/kill", json={"scope": "all"}, headers=headers)).status_code == 403
        await owner.post(f"/api/v1/bearers/{made['bearer_id']}/end")
        assert (await http.get("/api/v1/status", headers=headers)).status_code == 401


async def test_a_bearer_ends_with_its_time(room: Room) -> None:
    async with room.owner() as owner, room.http() as http:
        made = (await owner.post("/api/v1/bearers", json={"role": "viewer", "ttl_s": 60})).json()
        room.door.clock.advance(61)
        answer = await http.get("/api/v1/status", headers={"Authorization": f"Bearer {made['bearer']}"})
    assert answer.status_code == 401


async def test_a_bad_bearer_is_not_replaced_by_a_good_cookie(room: Room) -> None:
    browser = await room.person("viewer")
    assert (await browser.http.get("/api/v1/status")).status_code == 200
    assert (await browser.http.get("/api/v1/status", headers={"Authorization": "Bearer x"})).status_code == 401


async def test_the_listener_cannot_be_told_that_a_request_is_the_owners(room: Room) -> None:
    async def lying(scope, receive, send):  # type: ignore[no-untyped-def]
        scope["extensions"] = {"bartizan.operator": "uid:0"}
        await room.app(scope, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=lying), base_url="http://localhost") as http:
        assert (await http.get("/api/v1/status")).status_code == 401
    async with room.owner() as owner:  # the twin: through the socket's own entrance it is
        assert (await owner.get("/api/v1/status")).status_code == 200


CROSS = [
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://127.0.0.1:8701", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://127.0.0.1:8701", "Sec-Fetch-Site": "none"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "null", "Sec-Fetch-Site": "none"}, 403),
    ({}, 403),
    ({"Origin": "http://127.0.0.1:8701"}, 303),
    ({"Origin": "http://127.0.0.1:8701", "Sec-Fetch-Site": "same-origin"}, 303),
    (OWN, 303),
]


@pytest.mark.parametrize(("headers", "status"), CROSS)
async def test_a_form_is_taken_from_our_own_page_alone(room: Room, headers: dict[str, str], status: int) -> None:
    browser = await room.person("operator")
    form = {"csrf": await browser.csrf(), "scope": "upstream", "name": "time"}
    answer = await browser.http.post("/stops/pull", data=form, headers=headers)
    assert answer.status_code == status
    assert bool(room.parts.kill_switch.stops()) == (status == 303)


async def test_no_form_of_the_console_is_taken_from_another_page_nor_an_act_of_the_api_from_one_of_ours(
    room: Room,
) -> None:
    browser = await room.person("admin")
    form = {"csrf": await browser.csrf(), "username": "admin", "password": PASSWORD, "scope": "all", "decision": "deny"}
    posted = sorted(path for method, path, _ in routes(room) if method == "POST")
    assert len([path for path in posted if not path.startswith("/api/")]) == len(FORMS) + len(OPEN) - 1
    for path in posted:
        api = path.startswith("/api/")
        body: dict[str, Any] = {"json": {}} if api else {"data": form}
        # What our own form says opens no act of the API either: its scripts say their origin.
        for headers in [headers for headers, status in CROSS if status == 403] + ([OWN] if api else []):
            sent = {**headers, "X-CSRF-Token": form["csrf"]}  # its session's token helps nobody
            answer = await browser.http.post(fill(path), headers=sent, **body)
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), (path, headers)
    assert room.parts.kill_switch.stops() == []


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
async def test_a_form_without_the_sessions_token_changes_nothing(room: Room, token: str) -> None:
    browser = await room.person("operator")
    answer = await browser.post("/stops/pull", {"csrf": token, "scope": "all"})
    assert answer.status_code == 403
    assert room.parts.kill_switch.stops() == []


async def test_another_sessions_token_does_not_fit(room: Room) -> None:
    one, other = await room.person("operator", "one"), await room.person("operator", "other")
    answer = await one.post("/stops/pull", {"csrf": await other.csrf(), "scope": "all"})
    assert answer.status_code == 403


async def test_the_api_wants_the_token_from_a_session_and_not_from_a_bearer(room: Room) -> None:
    browser = await room.person("operator")
    assert (await browser.api("kill", {"scope": "all"}, **{"x-csrf-token": "no"})).status_code == 403
    assert (await browser.api("kill", {"scope": "all"})).status_code == 201


def test_the_last_of_several_roles_is_shown_and_foreign_roles_count_nothing() -> None:
    assert known(("dev", "operator", "viewer")) == ("viewer", "operator")
    assert known(("demo",)) == known(("owner",)) == ()  # nobody can be given the owner's
    assert Caller("x", "t", ("viewer", "approver"), "session").role == "approver"
    assert Caller("x", "t", ("admin",), "session").may("status.read")
    assert not Caller("x", "t", ("admin",), "session").may("tokens.mint")
    assert not Caller("x", "t", ("admin",), "session").may("approvals.decide")


async def test_a_person_without_a_role_here_cannot_sign_in(room: Room) -> None:
    await room.door.identity.users.create("demo", PASSWORD, tenant=TENANT, roles=("demo",))
    async with room.http() as http:
        answer = await http.post("/sign-in", data={"username": "demo", "password": PASSWORD}, headers=OWN)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_tenant_is_named_by_the_owner_alone(room: Room) -> None:
    browser = await room.person("admin")
    assert (await browser.http.get("/api/v1/registry?tenant=other")).status_code == 403
    async with room.owner() as owner:
        assert (await owner.get("/api/v1/registry?tenant=other")).json() == {"entries": []}
