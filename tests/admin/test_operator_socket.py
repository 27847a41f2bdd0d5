"""The unix socket: whose it is, who may be at the other end, and who holds it."""

import asyncio
import http.client
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from firewall.admin import OperatorSocket
from firewall.core.errors import ConfigFault
from firewall.net.runtime import Tasks
from tests.admin.rig import Room


def ask(path: Path, target: str, host: str = "localhost") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


async def test_the_owner_is_known_by_the_kernel_and_needs_no_password(room: Room, path: Path) -> None:
    tasks = Tasks()
    door = OperatorSocket(path, room.app, tasks)
    await door.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    status, body = await asyncio.to_thread(ask, path, "/api/v1/status")
    assert status == 200
    assert orjson.loads(body)["you"] == {"name": f"uid:{os.geteuid()}", "role": "owner", "tenant": "acme"}
    await door.stop()
    await tasks.close()
    assert not path.exists()


async def test_another_user_is_cut_off_before_a_word(room: Room, path: Path) -> None:
    """The twin of the test above: the same peer, not among those who may."""
    tasks = Tasks()
    door = OperatorSocket(path, room.app, tasks, allowed=frozenset({os.geteuid() + 1}))
    await door.start()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        await asyncio.to_thread(ask, path, "/api/v1/status")
    await door.stop()
    await tasks.close()


async def test_a_web_page_cannot_talk_to_it(room: Room, path: Path) -> None:
    tasks = Tasks()
    door = OperatorSocket(path, room.app, tasks)
    await door.start()
    status, _ = await asyncio.to_thread(ask, path, "/api/v1/status", "evil.example")
    assert status == 421
    await door.stop()
    await tasks.close()


async def test_one_of_several_workers_holds_it_and_another_takes_over(
    room: Room, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firewall.admin.operator_socket.TAKE_OVER_S", 0.02)
    tasks = Tasks()
    one, two = OperatorSocket(path, room.app, tasks), OperatorSocket(path, room.app, tasks)
    await one.start()
    await two.start()
    assert (one.held, two.held) == (True, False)
    assert (await asyncio.to_thread(ask, path, "/healthz"))[0] == 200
    await one.stop()
    async with asyncio.timeout(5):
        while not two.held:
            await asyncio.sleep(0.02)
    assert (await asyncio.to_thread(ask, path, "/healthz"))[0] == 200
    await two.stop()
    await tasks.close()


async def test_what_a_killed_node_left_behind_is_replaced(room: Room, path: Path) -> None:
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.exists()
    tasks = Tasks()
    door = OperatorSocket(path, room.app, tasks)
    await door.start()
    assert (await asyncio.to_thread(ask, path, "/healthz"))[0] == 200
    await door.stop()
    await tasks.close()


async def test_a_path_that_no_socket_can_have_is_told(room: Room, tmp_path: Path) -> None:
    tasks = Tasks()
    with pytest.raises(ConfigFault) as caught:
        await OperatorSocket(tmp_path / ("a" * 120), room.app, tasks).start()
    assert caught.value.code == "admin_socket"
    with pytest.raises(ConfigFault):
        await OperatorSocket(tmp_path / "none" / "admin.sock", room.app, tasks).start()
    await tasks.close()


async def test_background_work_runs_from_start_to_close(room: Room, path: Path) -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.sleep(60)

    tasks = Tasks()
    door = OperatorSocket(path, room.app, tasks, background=(work,))
    await door.start()
    async with asyncio.timeout(5):
        await began.wait()
    await door.stop()
    await tasks.close()
    assert len(tasks) == 0
