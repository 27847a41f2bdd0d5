"""Finding a client's metadata document: order of the checks, cache, failures."""

import asyncio

import pytest

from firewall.core.errors import Malformed
from firewall.identity.cimd.documents import WAITING, ClientDocuments
from firewall.identity.settings import IdentitySettings
from firewall.net.dial import Fetched, Purpose
from firewall.net.runtime import FakeClock
from firewall.wire import strict_json
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, ORIGIN, NoNetwork

JSON_TYPE = {"content-type": "application/json; charset=utf-8"}


class Finder:
    def __init__(self, **changes: object) -> None:
        values: dict[str, object] = {"public_url": ORIGIN, "cimd_hosts": ("app.example",), **changes}
        self.clock = FakeClock()
        self.network = NoNetwork()
        self.documents = ClientDocuments(IdentitySettings(**values), self.network, self.clock)  # type: ignore[arg-type]

    def publish(self, status: int = 200, headers: dict[str, str] | None = None, **changes: object) -> None:
        body = strict_json.dumps({**CIMD_DOCUMENT, **changes})  # type: ignore[dict-item]
        self.network.answers[CIMD_URL] = Fetched(status, headers or JSON_TYPE, body)

    async def refused(self, url: str = CIMD_URL) -> str:
        with pytest.raises(Malformed) as caught:
            await self.documents.get(url)
        return caught.value.code


async def test_a_document_is_fetched_once_and_kept_for_an_hour() -> None:
    finder = Finder()
    finder.publish()
    found = await asyncio.gather(*(finder.documents.get(CIMD_URL) for _ in range(20)))
    assert len({id(document) for document in found}) == 1
    assert finder.network.asked == [(Purpose.CIMD, CIMD_URL)]
    finder.clock.advance(3599)
    await finder.documents.get(CIMD_URL)
    assert len(finder.network.asked) == 1
    finder.clock.advance(1)
    await finder.documents.get(CIMD_URL)
    assert len(finder.network.asked) == 2


@pytest.mark.parametrize(
    ("changes", "url", "code"),
    [
        ({"cimd_policy": "off"}, CIMD_URL, "cimd_off"),
        ({}, "https://evil.example/c", "cimd_host"),
        ({}, "https://sub.app.example/c", "cimd_host"),
        ({}, "https://127.0.0.1/c", "cimd_url"),
        ({"cimd_policy": "any"}, "https://app.example/../c", "cimd_url"),
    ],
)
async def test_cl_01_syntax_and_trust_are_judged_before_any_network(
    changes: dict[str, object], url: str, code: str
) -> None:
    finder = Finder(**changes)
    assert await finder.refused(url) == code
    assert finder.network.asked == []


async def test_any_host_is_fetched_only_where_the_policy_says_so() -> None:
    finder = Finder(cimd_policy="any", cimd_hosts=())
    finder.publish()
    assert (await finder.documents.get(CIMD_URL)).client_id == CIMD_URL


async def test_a_pinned_document_is_never_fetched() -> None:
    finder = Finder(cimd_pinned={CIMD_URL: CIMD_DOCUMENT}, cimd_hosts=())
    assert (await finder.documents.get(CIMD_URL)).client_name == "Example Agent"
    assert finder.network.asked == []


@pytest.mark.parametrize("status", [201, 204, 301, 302, 304, 403, 404, 500])
async def test_any_status_but_200_is_an_error(status: int) -> None:
    finder = Finder()
    finder.publish(status)
    assert await finder.refused() == "cimd_fetch"


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("application/json", True),
        ("application/cimd+json", True),
        ("text/html", False),
        ("", False),
        ("text/json", False),
    ],
)
async def test_the_media_type_is_json(kind: str, good: bool) -> None:
    finder = Finder()
    finder.publish(headers={"content-type": kind, "cache-control": "max-age=60"})
    if good:
        assert await finder.documents.get(CIMD_URL)
    else:
        assert await finder.refused() == "cimd_fetch"


async def test_cl_02_a_document_of_another_client_is_refused_and_not_kept() -> None:
    finder = Finder()
    finder.publish(client_id=CIMD_URL + "/")
    assert await finder.refused() == "cimd_document"
    finder.clock.advance(30)
    finder.publish()
    assert await finder.documents.get(CIMD_URL)


async def test_cl_03_a_failure_is_remembered_for_thirty_seconds_only_to_spare_the_network() -> None:
    finder = Finder()
    for _ in range(5):
        assert await finder.refused() == "cimd_fetch"
    assert len(finder.network.asked) == 1
    finder.clock.advance(30)
    finder.publish()
    assert await finder.documents.get(CIMD_URL)


async def test_cl_03_a_failing_host_leaves_the_last_good_document_to_a_refresh_for_a_day() -> None:
    finder = Finder()
    finder.publish()
    good = await finder.documents.get(CIMD_URL)
    finder.network.answers.clear()
    finder.clock.advance(3600)
    assert await finder.refused() == "cimd_fetch"
    assert await finder.documents.get(CIMD_URL, allow_stale=True) is good
    finder.clock.advance(24 * 3600)
    with pytest.raises(Malformed):
        await finder.documents.get(CIMD_URL, allow_stale=True)


async def test_a_large_document_is_refused() -> None:
    finder = Finder()
    finder.publish(pad="x" * 6000)
    assert await finder.refused() == "cimd_fetch"


async def test_cl_03_a_flood_of_other_documents_ends_nobodys_session(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder(cimd_policy="any")
    finder.publish()
    good = await finder.documents.get(CIMD_URL)
    finder.clock.advance(3601)
    gate = asyncio.Event()

    async def held(*_args: object, **_more: object) -> Fetched:
        await gate.wait()
        return Fetched(500)

    monkeypatch.setattr(finder.network, "fetch", held)
    flood = [asyncio.create_task(finder.documents.get(f"https://h{n}.example/c")) for n in range(WAITING)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await finder.refused() == "cimd_busy"
    assert await finder.documents.get(CIMD_URL, allow_stale=True) is good
    gate.set()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_slow_hosts_that_nobody_listed_leave_a_turn_to_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder(cimd_policy="any")
    finder.publish()
    fetch, gate, busy = finder.network.fetch, asyncio.Event(), list[str]()

    async def slow(purpose: Purpose, url: str, **more: object) -> Fetched:
        if url != CIMD_URL:
            busy.append(url)
            await gate.wait()
        return await fetch(purpose, url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(finder.network, "fetch", slow)
    strangers = [asyncio.create_task(finder.documents.get(f"https://h{n}.example/c")) for n in range(12)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(busy) == 3
    assert await finder.documents.get(CIMD_URL)  # app.example is listed
    gate.set()
    await asyncio.gather(*strangers, return_exceptions=True)


async def test_a_thousand_documents_are_kept_and_the_least_used_goes_first() -> None:
    finder = Finder(cimd_policy="any")
    finder.publish()
    await finder.documents.get(CIMD_URL)
    for number in range(1000):
        url = f"https://h{number}.example/c"
        body = strict_json.dumps({**CIMD_DOCUMENT, "client_id": url})
        finder.network.answers[url] = Fetched(200, JSON_TYPE, body)
        await finder.documents.get(url)
        if number == 500:
            await finder.documents.get(CIMD_URL)
    asked = len(finder.network.asked)
    await finder.documents.get(CIMD_URL)  # used meanwhile
    assert len(finder.network.asked) == asked
    await finder.documents.get("https://h0.example/c")
    assert len(finder.network.asked) == asked + 1


async def test_a_caller_who_gives_up_does_not_take_the_others_with_him(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder()
    finder.publish()
    fetch, gate = finder.network.fetch, asyncio.Event()

    async def slow(*args: object, **more: object) -> Fetched:
        await gate.wait()
        return await fetch(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(finder.network, "fetch", slow)
    callers = [asyncio.create_task(finder.documents.get(CIMD_URL)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    first, *others = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert all(getattr(found, "client_id", "") == CIMD_URL for found in others)
