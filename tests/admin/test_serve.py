"""Health, readiness and metrics; what is loaded when."""

import subprocess
import sys

import pytest

from tests.admin.rig import Room


async def test_healthz_answers_anybody(room: Room) -> None:
    async with room.http("192.0.2.9") as http:
        answer = await http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readyz_says_whether_to_strangers_and_why_to_people(room: Room) -> None:
    browser = await room.person("viewer")
    async with room.http("192.0.2.9") as http:
        assert (await http.get("/readyz")).json() == {"ready": True}
        room.log.down = True
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert (await browser.http.get("/readyz")).json()["parts"]["audit"] == "audit_unavailable"


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.9", 401), ("nonsense", 401)]
)
async def test_metrics_are_for_loopback_and_for_those_who_are_known(room: Room, address: str, status: int) -> None:
    async with room.http(address) as http, room.owner() as owner:
        answer = await http.get("/metrics")
        assert answer.status_code == status
        bearer = (await owner.post("/api/v1/bearers", json={"role": "viewer"})).json()["bearer"]
        known = await http.get("/metrics", headers={"Authorization": f"Bearer {bearer}"})
    assert known.text == "# HELP up Up.\nup 1\n"
    assert known.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_styles_and_the_script_are_served_with_their_types(room: Room) -> None:
    async with room.http() as http:
        for path, kind in (
            ("/assets/front-door.css", "text/css"),
            ("/static/console.css", "text/css"),
            ("/static/live.js", "text/javascript"),
            ("/static/icon.svg", "image/svg+xml"),
        ):
            answer = await http.get(path)
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.get("/static/../serve.py")).status_code == 404
        assert (await http.get("/static/console.css", params={"x": "1"})).status_code == 200


def test_the_data_plane_does_not_pay_for_the_console() -> None:
    code = (
        "import sys, firewall.app; "
        "print([m for m in ('fastapi', 'starlette', 'firewall.admin.console') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
