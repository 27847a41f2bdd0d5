"""docs/clients.md: each exchange on the page is sent as it stands there, and its settings and documents are good."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from firewall import config as configuration
from firewall.config import front_door
from firewall.wire import cimd, strict_json
from tests.identity.test_oauth_document import Reader, exchanges
from tests.identity.test_workloads import account_token, hosted, kubernetes
from tests.identity.test_workloads import open_door as workload_door
from tests.support.door import assertion, make_door, registered_clients


def blocks(root: Path, kind: str) -> list[str]:
    text = (root / "docs" / "clients.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


async def test_every_exchange_of_the_page_is_answered_as_it_says(root: Path) -> None:
    text = (root / "docs" / "clients.md").read_text(encoding="utf-8")
    door = make_door(clients=(*registered_clients(), hosted()), workloads=(kubernetes(),), registration=True)
    door.fetcher.answers = workload_door().fetcher.answers
    known = {"assertion": assertion(door), "service_account_token": account_token(door)}
    async with door.http() as http:
        reader = Reader(http, known, {})
        sent = 0
        for one in exchanges(text):
            await reader.send(one)
            sent += 1
    assert sent == text.count("```http\n") == 4


def test_the_settings_of_the_page_are_taken(root: Path, tmp_path: Path) -> None:
    found = blocks(root, "yaml")
    assert len(found) == 4
    for block in found:
        given = yaml.safe_load(block)
        given |= {"public_url": "https://fw.example", "state_dir": str(tmp_path)}
        front_door.identity(configuration.build(given), ())


def test_the_document_of_the_page_is_one(root: Path) -> None:
    document = strict_json.loads(blocks(root, "text")[0].encode())
    assert isinstance(document, dict)
    assert cimd.check_document(str(document["client_id"]), document).auth_method == "none"
