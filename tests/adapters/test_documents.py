"""docs/authzen.md and docs/signals.md: each exchange is sent as it stands there, and answered as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from firewall import config
from tests.adapters.rig import make_point
from tests.identity.test_oauth_document import Exchange, Reader, exchanges
from tests.identity.test_ssf import SECRET, make_stream

ROOT = Path(__file__).resolve().parents[2]


def blocks(name: str) -> list[Exchange]:
    return list(exchanges((ROOT / "docs" / name).read_text(encoding="utf-8")))


async def test_every_exchange_about_decisions_is_answered_as_the_page_says() -> None:
    point = await make_point()
    sent = blocks("authzen.md")
    async with point.http() as http:
        reader = Reader(http, {"token": await point.token(), "subject": point.subject}, {})
        for one in sent:
            await reader.send(one)
    assert len(sent) == 4


async def test_every_exchange_about_events_is_answered_as_the_page_says() -> None:
    stream = await make_stream()
    known = {
        "secret": SECRET,
        "event": stream.sign(stream.claims()).decode(),
        "event_for_another": stream.sign(stream.claims(aud="https://other.example")).decode(),
    }
    sent = blocks("signals.md")
    async with stream.door.http() as http:
        reader = Reader(http, known, {})
        for one in sent:
            await reader.send(one)
    assert len(sent) == 2
    assert await stream.signals.receiver.work() == 1


def test_the_settings_on_the_pages_load() -> None:
    import re

    for name in ("authzen.md", "signals.md", "admin.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        found = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert found, name
        for block in found:
            given: dict[str, Any] = yaml.safe_load(block)
            config.build({"public_url": "https://fw.example", **given})
