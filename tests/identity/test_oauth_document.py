"""docs/oauth.md: each exchange on the page is sent as it stands there, in order, and answered as it says."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from firewall.identity.settings import ClientSettings
from tests.identity.test_device import TV
from tests.identity.test_id_jag import IDP, id_jag, issuers
from tests.support.chain import AGENTS, SECRET, confidential, token_of
from tests.support.door import (
    PASSWORD,
    RESOURCES,
    VERIFIER,
    assertion,
    challenge_of,
    inputs_of,
    make_door,
    registered_clients,
)
from tests.support.dpop import Holder

REST = "…"
NAME = re.compile(r"<([a-z_]+)>")


@dataclass(frozen=True)
class Exchange:
    """One block of the page. where: its heading, for a failure's text. wait_s: what the text before it says."""

    where: str
    wait_s: int
    method: str
    target: str
    headers: dict[str, str]
    body: str
    status: int
    answer_headers: dict[str, str]
    answer: str


def exchanges(text: str) -> Iterator[Exchange]:
    heading, wait_s = "", 0
    for part in re.split(r"(^## [^\n]*$|^```http\n.*?^```$)", text, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("## "):
            heading = part[3:]
        if not part.startswith("```http"):
            wait_s = 5 if "Five seconds later" in part else 0
            continue
        request, answer = re.split(r"^HTTP/1\.1 ", part[8:-4], flags=re.MULTILINE)[-2:]
        # A line that begins with a space goes on where the one before it ended.
        request = re.sub(r"\n (?=\S)", "", request)
        head, _, body = request.partition("\n\n")
        line, *headers = head.splitlines()
        method, target, _ = line.split(" ")
        answer_head, _, answer_body = answer.partition("\n\n")
        status, *answer_headers = answer_head.splitlines()
        yield Exchange(
            heading,
            wait_s,
            method,
            target,
            fields(headers),
            body.strip(),
            int(status.split(" ")[0]),
            fields(answer_headers),
            answer_body.strip(),
        )


def fields(lines: list[str]) -> dict[str, str]:
    """Return header fields by name; one that comes again is joined as a client joins it (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for line in lines:
        name, value = line.split(": ", 1)
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def is_call(one: Exchange) -> bool:
    """Return whether a whole firewall is needed to answer it (tests/flow/test_calls_document.py)."""
    return one.target.startswith("/mcp/")


class Reader:
    """Sends what the page says. known: values by name; made: those that are new each time."""

    def __init__(self, http: httpx2.AsyncClient, known: dict[str, str], made: dict[str, Callable[[], str]]) -> None:
        self.http, self.known, self.made = http, known, made

    def filled(self, text: str, *, quoted: bool = False) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            found = self.made[name]() if name in self.made else self.known[name]
            return quote(found, safe="") if quoted else found

        return NAME.sub(value, text)

    async def send(self, one: Exchange) -> None:
        target = self.filled(one.target, quoted=True)
        headers = {name: self.filled(value) for name, value in one.headers.items()}
        body = self.filled(one.body, quoted=one.headers.get("Content-Type", "").endswith("urlencoded"))
        reply = await self.http.request(one.method, target, headers=headers, content=body or None)
        where = f"{one.where}: {one.method} {one.target[:40]}"
        assert reply.status_code == one.status, (where, reply.text)
        for name, value in one.answer_headers.items():
            self.match(value, reply.headers[name], f"{where}: {name}")
        if one.answer:
            self.match(orjson.loads(one.answer), reply.json(), where)
        elif reply.headers.get("content-type", "").startswith("text/html"):
            self.known.update({name: value for name, value in inputs_of(reply.text).items() if value})

    def match(self, told: Any, found: Any, where: str) -> None:
        """Compare what the page tells with what came; a name is learnt, `…` stands for anything."""
        if told == REST:
            return
        if isinstance(told, dict):
            assert isinstance(found, dict), where
            names = set(told) - {REST}
            assert (names <= set(found)) if REST in told else (names == set(found)), (where, sorted(found))
            for name in names:
                self.match(told[name], found[name], f"{where}.{name}")
        elif isinstance(told, list):
            rest = REST in told[1:]
            assert isinstance(found, list), where
            assert len(found) >= len(told) - 1 if rest else len(found) == len(told), where
            for one, other in zip(told, found, strict=False):
                self.match(one, other, where)
        elif isinstance(told, str) and NAME.search(told):
            pattern = NAME.sub(r"(?P<\1>[^&\\s]+)", re.sub(r"[.?+*()\[\]{}^$|]", r"\\\g<0>", told))
            got = re.fullmatch(pattern, found)
            assert got, (where, told, found)
            self.known.update(got.groupdict())
        else:
            assert told == found, (where, told, found)


CLIENTS = (
    *registered_clients(),
    confidential("rs-time", resource="/mcp/time"),
    confidential("planner", resource="/a2a/planner"),
    confidential("app", grant_types=("urn:ietf:params:oauth:grant-type:jwt-bearer",)),
    ClientSettings("desk", "A desk", redirect_uris=("http://127.0.0.1/callback",), tenant="acme"),
    TV,
)


async def test_every_exchange_of_the_page_is_answered_as_it_says(root: Path) -> None:
    text = (root / "docs" / "oauth.md").read_text(encoding="utf-8")
    door = make_door(
        resources=(*RESOURCES, *AGENTS),
        clients=CLIENTS,
        device_grant=True,
        registration=True,
        trusted_issuers=issuers(),
    )
    ada = await door.user(scopes=("*",))
    door.identity.links.link("acme", IDP, "00u1", ada.subject)
    numbers, holder = iter(range(1000)), Holder()
    known = {
        "challenge": challenge_of(VERIFIER),
        "verifier": VERIFIER,
        "password": PASSWORD,
        "details": " ".join(re.findall(r"^```jsonc\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)[0].split()),
        "resource_credentials": basic("rs-time"),
        "planner_credentials": basic("planner"),
        "app_credentials": basic("app"),
    }
    made = {
        "assertion": lambda: assertion(door, jti=f"n{next(numbers)}"),
        "proof": lambda: holder.proof("POST", f"{door.origin}/token", now_s=door.clock.now_us() // 1_000_000),
        "persons_token": lambda: token_of(door, ada),
        "id_jag": lambda: id_jag(door),
    }
    done = 0
    async with door.http() as http:
        reader = Reader(http, known, made)
        for one in exchanges(text):
            door.clock.advance(one.wait_s)
            if not is_call(one):
                await reader.send(one)
            done += 1
    assert done == text.count("```http\n") >= 25
    assert door.verified(reader.known["exchanged_token"]).subject == ada.subject


def basic(client_id: str) -> str:
    return base64.b64encode(f"{client_id}:{SECRET}".encode()).decode()


def test_the_reader_of_the_page_notices_what_is_not_so() -> None:
    """The twin: a page that tells of a member, a value or a status that is not there."""
    reader = Reader(None, {}, {})  # type: ignore[arg-type]
    reader.match({"a": "<x>", REST: REST}, {"a": "1", "b": 2}, "")
    assert reader.known == {"x": "1"}
    for told, found in (({"a": 1}, {"a": 1, "b": 2}), ({"a": 1}, {"a": 2}), ([1], [1, 2]), ("/x?y=<z>", "/x?w=1")):
        try:
            reader.match(told, found, "")
        except AssertionError:
            continue
        raise AssertionError((told, found))
