"""Who is let in, and that a form came from our own page."""

import pytest
from fastapi.routing import APIRoute

from firewall.admin import console
from firewall.admin.api import Need
from firewall.admin.caller import GIVEN, Caller, highest
from tests.admin.rig import OWN, TENANT, Room
from tests.support.door import PASSWORD

FORMS = {
    "/pins/approve": "operator",
    "/servers/move": "operator",
    "/stops/pull": "operator",
    "/stops/release": "operator",
}
FORMS["/sign-out"] = "viewer"
OPEN = {"/sign-in", "/first"}


def routes(room: Room) -> list[tuple[str, str, str]]:
    """Return every route of the application with its method and the role it needs."""
    found = []
    app = console.make(room.parts, room.app.access)
    todo = list(app.routes)  # type: ignore[attr-defined]
    while todo:
        route = todo.pop()
        if not isinstance(route, APIRoute):
            todo.extend(route.original_router.routes)
            continue
        needs = [d.call.role for d in route.dependant.dependencies if isinstance(d.call, Need)]
        role = needs[0] if needs else FORMS.get(route.path, "")
        found += [(method, route.path, role) for method in route.methods]
    return found


def fill(path: str) -> str:
    values = {"{some_id}": "x_1", "{kind}": "mcp", "{name}": "time", "{verb}": "approve", "{bearer_id}": "0" * 16}
    for name, value in values.items():
        path = path.replace(name, value)
    return path.replace("/users/time/approve", "/users/time/disable")


def test_every_route_names_the_role_that_it_needs(room: Room) -> None:
    found = routes(room)
    assert len(found) > 30
    assert {path for _, path, role in found if not role} == OPEN


async def test_a_stranger_gets_nothing_from_any_route(room: Room) -> None:
    async with room.http() as http:
        for method, path, role in routes(room):
            if not role:
                continue
            answer = await http.request(method, fill(path), headers=OWN, data={"x": "1"} if method == "POST" else None)
            if path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"] == "sign_in"
            else:
                assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), (method, path)


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_role_reaches_its_own_routes_and_no_higher_one(room: Room, role: str) -> None:
    browser = await room.person(role)
    csrf = await browser.csrf()
    ranks = ["viewer", "operator", "admin", "owner"]
    for method, path, needed in routes(room):
        if not needed or path == "/sign-out" or path == "/api/v1/doctor":
            continue
        headers = {**OWN, "x-csrf-token": csrf, "content-type": "application/json"}
        if path.startswith("/api/"):
            answer = await browser.http.request(
                method, fill(path), headers=headers, content=b"{}" if method == "POST" else None
            )
        else:
            answer = await browser.http.request(
                method, fill(path), headers=OWN, data={"csrf": csrf} if method == "POST" else None
            )
        refused = answer.status_code == 403
        assert refused == (ranks.index(role) < ranks.index(needed)), (method, path, needed, answer.text)


async def test_an_agents_token_is_nobody_here(room: Room) -> None:
    token = room.door.identity.operator_tokens.mint_for_operator("/mcp/time", tenant=TENANT).token
    async with room.http() as http:
        answer = await http.get("/api/v1/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401


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

    import httpx2

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=lying), base_url="http://localhost") as http:
        assert (await http.get("/api/v1/status")).status_code == 401
    async with room.owner() as owner:  # the twin: through the socket's own entrance it is
        assert (await owner.get("/api/v1/status")).status_code == 200


CROSS = [
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://127.0.0.1:8701", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://127.0.0.1:8701", "Sec-Fetch-Site": "none"}, 403),
    ({"Origin": "null"}, 403),
    ({}, 403),
    ({"Origin": "http://127.0.0.1:8701"}, 303),
    (OWN, 303),
]


@pytest.mark.parametrize(("headers", "status"), CROSS)
async def test_a_form_is_taken_from_our_own_page_alone(room: Room, headers: dict[str, str], status: int) -> None:
    browser = await room.person("operator")
    form = {"csrf": await browser.csrf(), "scope": "upstream", "name": "time"}
    answer = await browser.http.post("/stops/pull", data=form, headers=headers)
    assert answer.status_code == status
    assert bool(room.parts.kill_switch.stops()) == (status == 303)


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


def test_the_highest_of_several_roles_counts_and_foreign_roles_count_nothing() -> None:
    assert highest(("dev", "viewer", "operator")) == "operator"
    assert highest(("demo",)) is None
    assert highest(("owner",)) is None  # nobody can be given it
    assert Caller("x", "t", "admin", "session").may("viewer")
    assert not Caller("x", "t", "admin", "session").may("owner")
    assert GIVEN == ("viewer", "operator", "admin")


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
