"""What the workers of `test_workers.py` run: a listener that says its process id, ends itself, or hangs."""

import asyncio
import os
import time
from typing import Any

from firewall.net.heartbeat import Heartbeat, until_told
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server, run


async def application(scope: Any, receive: Any, send: Any) -> None:
    """GET / → pid; /die ends the process; /stick blocks its loop; /stream never ends."""
    if scope["path"] == "/die":
        os._exit(9)
    if scope["path"] == "/stick":
        time.sleep(60)
    body = str(os.getpid()).encode()
    stream = scope["path"] == "/stream"
    headers = [] if stream else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": stream})
    if stream:
        await asyncio.Event().wait()


def serve(index: int, heartbeat: Heartbeat, argument: Any) -> None:
    """Serve on the reserved port until SIGTERM."""
    run(lambda: _main(heartbeat, argument))


def slow_last(index: int, heartbeat: Heartbeat, argument: Any) -> None:
    """Be ready; the last worker a moment later. Whoever is first writes once, when all are, with the secret."""

    async def main() -> None:
        if index == 2:
            await asyncio.sleep(0.1)
            (argument / "late").write_text("")
        heartbeat.ready()
        await heartbeat.all_ready()
        if heartbeat.first("up"):
            (argument / "up").write_text(f"{(argument / 'late').exists()} {heartbeat.secret.hex()}")
        else:
            (argument / f"second{index}").write_text(heartbeat.secret.hex())
        await until_told(heartbeat, beat_s=0.05)

    run(main)


def hopeless(index: int, heartbeat: Heartbeat, argument: Any) -> None:
    """End as a worker does that cannot read its configuration."""
    if heartbeat.first("fault"):
        (argument / "fault").open("a").write("x")
    os._exit(4)


async def _main(heartbeat: Heartbeat, port: int) -> None:
    tasks = Tasks()
    server = Server([Listener("data", "127.0.0.1", port, application, reuse_port=True)], SystemClock(), tasks)
    await server.start()
    await until_told(heartbeat, beat_s=0.05)
    await server.stop(grace_s=0.2)
    await tasks.close()
