"""docs/admin.md: each exchange on the page is sent as it stands there, in order, and answered as it says."""

from __future__ import annotations

from pathlib import Path

from tests.admin.rig import HOST, ORIGIN, TENANT, Room
from tests.identity.test_oauth_document import Reader, exchanges
from tests.support.door import PASSWORD


async def test_every_exchange_of_the_page_of_the_console_is_answered_as_it_says(room: Room, root: Path) -> None:
    text = (root / "docs" / "admin.md").read_text(encoding="utf-8")
    page = list(
        exchanges(text.replace("https://admin.fw.example", ORIGIN).replace("Host: admin.fw.example", f"Host: {HOST}"))
    )
    assert [one.status for one in page] == [200, 303, 200, 201, 403, 200, 401]
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("operator",))
    async with room.owner() as owner:
        made = (await owner.post("/api/v1/bearers", json={"role": "viewer"})).json()
    minted = room.door.identity.operator_tokens.mint_for_operator("/mcp/time", ("time:read",), tenant=TENANT)
    known = {"password": PASSWORD, "bearer": made["bearer"], "access_token": minted.token}
    async with room.http() as person, room.http() as script:
        at_the_console, without_cookies = Reader(person, known, {}), Reader(script, known, {})
        for one in page:
            await (without_cookies if "Authorization" in one.headers else at_the_console).send(one)
        assert [cookie.name for cookie in person.cookies.jar] == ["bz_admin"]
