"""The edge: one Host, no foreign Origin, one spelling of a path, and forwarded fields from configured proxies only."""

from typing import Any

import pytest

from firewall.core.errors import ConfigFault
from firewall.net import edge
from firewall.net.edge import Edge, EdgeSettings

PROXY = "10.0.0.5"


async def ask(
    settings: EdgeSettings,
    *headers: tuple[bytes, bytes],
    path: bytes = b"/mcp",
    method: str = "POST",
    client: str = "192.0.2.9",
    host: bytes | None = b"edge.test",
    query: bytes = b"",
) -> tuple[int, dict[str, Any] | None, dict[bytes, bytes]]:
    """Return the status, the scope that the application saw (None when it saw nothing) and the reply's headers."""
    seen: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    all_headers = [*([(b"host", host)] if host is not None else []), *headers]
    scope = {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": all_headers,
        "client": (client, 1),
        "scheme": "http",
    }
    await Edge(application, settings)(scope, receive, send)
    return sent[0]["status"], seen[0] if seen else None, dict(sent[0]["headers"])


SERVED = EdgeSettings(
    hosts=frozenset({"edge.test", "exact.test:8443", "[::1]", "127.0.0.1"}),
    origins=frozenset({"https://console.test"}),
    trusted_proxies=("10.0.0.0/24", "::1"),
)


@pytest.mark.parametrize(
    "host", [b"edge.test", b"EDGE.TEST", b"edge.test:1", b"exact.test:8443", b"[::1]:8080", b"127.0.0.1:9000"]
)
async def test_served_hosts_pass(host: bytes) -> None:
    assert (await ask(SERVED, host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.test",
        b"exact.test",
        b"exact.test:1",
        b"edge.test.evil.test",
        b"localhost",
        b"",
        b"edge.test.",
        b"edge.test@evil.test",
        b"[::2]",
    ],
)
async def test_other_hosts_are_not_served(host: bytes) -> None:
    status, seen, _ = await ask(SERVED, host=host)
    assert (status, seen) == (421, None)


async def test_no_host_or_two_are_refused_even_if_equal() -> None:
    assert (await ask(SERVED, host=None))[:2] == (400, None)
    assert (await ask(SERVED, (b"host", b"edge.test")))[:2] == (400, None)


async def test_origins_are_those_configured() -> None:
    assert (await ask(SERVED, (b"origin", b"https://console.test")))[0] == 200
    for origin in (
        b"https://evil.test",
        b"http://console.test",
        b"https://console.test:8443",
        b"null",
        b"https://CONSOLE.test",
        b"",
    ):
        assert (await ask(SERVED, (b"origin", origin)))[:2] == (403, None)
    assert (await ask(SERVED, (b"origin", b"https://console.test"), (b"origin", b"https://console.test")))[:2] == (
        403,
        None,
    )


OWN_FORM = ((b"origin", b"null"), (b"sec-fetch-site", b"same-origin"))


@pytest.mark.parametrize(
    ("headers", "path", "method", "status"),
    [
        (OWN_FORM, b"/consent", "POST", 200),
        (OWN_FORM, b"/consent", "GET", 403),
        (OWN_FORM, b"/mcp", "POST", 403),
        (OWN_FORM, b"/mcp/files", "POST", 403),
        (OWN_FORM, b"/v1/chat/completions", "POST", 403),
        (OWN_FORM, b"/api/v1/kill", "POST", 403),
        (OWN_FORM[:1], b"/consent", "POST", 403),
        (((b"origin", b"null"), (b"sec-fetch-site", b"cross-site")), b"/consent", "POST", 403),
        (((b"origin", b"null"), (b"sec-fetch-site", b"same-site")), b"/consent", "POST", 403),
        (((b"origin", b"null"), (b"sec-fetch-site", b"none")), b"/consent", "POST", 403),
        ((*OWN_FORM, (b"sec-fetch-site", b"same-origin")), b"/consent", "POST", 403),
        ((*OWN_FORM, (b"origin", b"null")), b"/consent", "POST", 403),
        (((b"origin", b"https://evil.test"), OWN_FORM[1]), b"/consent", "POST", 403),
    ],
)
async def test_ui_05_a_form_without_an_origin_is_let_to_our_pages_where_the_browser_says_that_it_is_ours(
    headers: tuple[tuple[bytes, bytes], ...], path: bytes, method: str, status: int
) -> None:
    assert (await ask(SERVED, *headers, path=path, method=method))[0] == status


@pytest.mark.parametrize("path", [b"/mcp/..", b"/%6dcp", b"//mcp", b"/mcp//", b"/./mcp", b"/a\\b", b"/\xc3\xa9"])
async def test_paths_with_two_readings_are_unknown_and_nothing_redirects(path: bytes) -> None:
    status, seen, headers = await ask(SERVED, path=path)
    assert (status, seen) == (404, None)
    assert b"location" not in headers


async def test_methods_outside_the_list_are_told_which_are_allowed() -> None:
    status, seen, headers = await ask(SERVED, method="TRACE")
    assert (status, seen) == (405, None)
    assert b"POST" in headers[b"allow"]


async def test_refusals_are_json_and_not_sniffed() -> None:
    _, _, headers = await ask(SERVED, host=b"evil.test")
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-content-type-options"] == b"nosniff"


async def test_a_trusted_proxy_tells_client_and_scheme() -> None:
    status, seen, _ = await ask(
        SERVED,
        (b"x-forwarded-for", b"198.51.100.7, 203.0.113.9, 10.0.0.6"),
        (b"x-forwarded-proto", b"https"),
        client=PROXY,
    )
    assert status == 200
    assert seen is not None
    # Rightmost address that is not one of ours: what stands left of it was written by strangers.
    assert seen["client"] == ("203.0.113.9", 0)
    assert seen["scheme"] == "https"
    assert seen["headers"] == [(b"host", b"edge.test")]


async def test_nobody_else_tells_anything() -> None:
    """Twin of the test above: the same fields from an unconfigured peer change nothing and go no further."""
    status, seen, _ = await ask(
        SERVED,
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"forwarded", b"for=127.0.0.1"),
        (b"x-real-ip", b"::1"),
        (b"x-forwarded-host", b"evil.test"),
    )
    assert status == 200
    assert seen is not None
    assert (seen["client"], seen["scheme"], seen["headers"]) == (("192.0.2.9", 1), "http", [(b"host", b"edge.test")])


@pytest.mark.parametrize(
    "fields",
    [
        ((b"x-forwarded-for", b"unknown"),),
        ((b"x-forwarded-for", b"1.2.3.4:80"),),
        ((b"x-forwarded-proto", b"https, http"),),
        ((b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")),
        ((b"x-forwarded-for", b",".join([b"10.0.0.6"] * 40)),),
    ],
)
async def test_a_trusted_proxy_that_says_nonsense_is_refused(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    assert (await ask(SERVED, *fields, client=PROXY))[:2] == (400, None)


async def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def never() -> Any:
        raise AssertionError

    async def application(*_: Any) -> None:
        raise AssertionError

    await Edge(application, SERVED)({"type": "websocket", "headers": []}, never, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("hosts", "proxies", "code"),
    [
        ((), (), "edge_host"),
        (("a b",), (), "edge_host"),
        (("http://a",), (), "edge_host"),
        (("é",), (), "edge_host"),
        (("a",), ("10.0.0.0/33",), "edge_proxy"),
        (("a",), ("proxy",), "edge_proxy"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_at_start(
    hosts: tuple[str, ...], proxies: tuple[str, ...], code: str
) -> None:
    async def application(*_: Any) -> None: ...

    with pytest.raises(ConfigFault) as caught:
        Edge(application, EdgeSettings(hosts=frozenset(hosts), trusted_proxies=proxies))
    assert caught.value.code == code
    assert caught.value.fix


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-user",
        b"x-forwarded-email",
        b"x-forwarded-access-token",
        b"x-auth-request-user",
        b"x-auth-token",
        b"remote-user",
        b"x-remote-user",
        b"txn-token",
        b"client-cert",
        b"client-cert-chain",
        b"mcp-user",
        b"mcp-principal",
    ],
)
async def test_rs_15_fields_that_name_a_person_go_no_further_whoever_sent_them(name: bytes) -> None:
    for client in (PROXY, "192.0.2.9"):
        status, seen, _ = await ask(SERVED, (name, b"admin"), (b"x-other", b"kept"), client=client)
        assert status == 200
        assert seen is not None
        assert seen["headers"] == [(b"host", b"edge.test"), (b"x-other", b"kept")]


async def test_rs_12_a_token_in_the_query_or_one_that_is_no_ascii_is_a_400() -> None:
    status, seen, _ = await ask(SERVED, query=b"access_token=eyJ")
    assert (status, seen) == (400, None)
    for query in (b"a=1&access_token=eyJ", b"access%5ftoken=eyJ", b"%61ccess_token%3DeyJ"):
        status, seen, _ = await ask(SERVED, query=query)
        assert (status, seen) == (400, None)
    status, seen, _ = await ask(SERVED, (b"authorization", b"Bearer caf\xc3\xa9"))
    assert (status, seen) == (400, None)


FORM = b"application/x-www-form-urlencoded"


@pytest.mark.parametrize("kind", [FORM, FORM.upper(), FORM + b"; charset=utf-8", b" " + FORM + b" ;x"])
@pytest.mark.parametrize("path", [b"/mcp", b"/mcp/files", b"/a2a/planner", b"/v1/messages", b"/access/v1/evaluation"])
async def test_rs_12_a_form_where_tokens_are_wanted_is_a_400_whatever_is_in_it(path: bytes, kind: bytes) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, seen, _ = await ask(SERVED, (b"content-type", kind), path=path, method=method)
        assert (status, seen) == (400, None)
    both = ((b"content-type", b"application/json"), (b"content-type", kind))
    for two in (both, both[::-1]):
        status, seen, _ = await ask(SERVED, *two, path=path)
        assert (status, seen) == (400, None)


@pytest.mark.parametrize("path", [b"/token", b"/revoke", b"/login", b"/mcpx", b"/.well-known/x", b"/idp/mcp/files"])
async def test_rs_12_a_form_passes_where_forms_are_taken(path: bytes) -> None:
    status, seen, _ = await ask(SERVED, (b"content-type", FORM), path=path, method="POST")
    assert (status, seen is not None) == (200, True)


@pytest.mark.parametrize(
    "kind", [b"application/json", b"application/json; charset=utf-8", b"text/plain", b"", FORM + b"x"]
)
async def test_rs_12_other_media_types_are_left_to_whoever_reads_them(kind: bytes) -> None:
    status, seen, _ = await ask(SERVED, (b"content-type", kind), path=b"/mcp/files", method="POST")
    assert (status, seen is not None) == (200, True)


async def test_rs_12_the_twin_of_it_passes() -> None:
    status, seen, _ = await ask(SERVED, (b"authorization", b"Bearer cafe"), query=b"a=1")
    assert status == 200
    assert seen is not None


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        (b"/token", True),
        (b"/.well-known/jwks.json", True),
        (b"/authorize", False),
        (b"/mcp/files", False),
        (b"/consent", False),
        (b"/mcp/token", False),
        (b"/.well-known/../mcp", False),
    ],
)
async def test_as_13_any_origin_reads_what_depends_on_no_cookie_and_nothing_else(path: bytes, passes: bool) -> None:
    settings = EdgeSettings(frozenset({"edge.test"}), open_to_all=("/.well-known/", "/token"))
    foreign = (b"origin", b"https://client.example")
    status, seen, _ = await ask(settings, foreign, path=path)
    assert (status == 200, seen is not None) == (passes, passes)
    assert (await ask(settings, foreign, foreign, path=path))[0] != 200


def test_no_field_that_is_dropped_passes_as_one_that_says_nothing() -> None:
    plain = {name for name, kind in edge._NAMES.items() if kind == edge._PLAIN}
    assert not plain & edge._DROPPED
    assert not [name for name in plain if name.startswith(edge._DROPPED_PREFIXES)]
    assert {name for name, kind in edge._NAMES.items() if kind == edge._GONE} == edge._DROPPED


class Listening:
    """One edge that is asked several times."""

    def __init__(self, settings: EdgeSettings = SERVED) -> None:
        self.edge = Edge(self.application, settings)
        self.passed: list[dict[str, Any]] = []
        self.told = 0

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed.append(scope)
        self.told = 200

    async def ask(
        self,
        *headers: tuple[bytes, bytes],
        host: bytes = b"edge.test",
        path: bytes = b"/mcp",
        method: str = "POST",
        query: bytes = b"",
    ) -> int:
        async def send(message: Any) -> None:
            self.told = message.get("status", self.told)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "method": method,
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": [(b"host", host), *headers],
            "client": (PROXY, 1),
            "scheme": "http",
        }
        await self.edge(scope, receive, send)
        return self.told


@pytest.mark.parametrize(
    ("headers", "changed", "status"),
    [
        ((), {"host": b"other.test"}, 421),
        ((), {"path": b"/mcp/../api"}, 404),
        ((), {"method": "TRACE"}, 405),
        ((), {"query": b"access_token=x"}, 400),
        (((b"host", b"edge.test"),), {}, 400),
        (((b"origin", b"https://other.test"),), {}, 403),
        (((b"content-type", b"application/x-www-form-urlencoded"),), {}, 400),
        (((b"authorization", b"Bearer \xff"),), {}, 400),
        (((b"x-forwarded-proto", b"ftp"),), {}, 400),
    ],
)
async def test_what_passed_once_vouches_for_nothing_that_differs_in_any_part(
    headers: tuple[tuple[bytes, bytes], ...], changed: dict[str, Any], status: int
) -> None:
    listening = Listening()
    for _ in range(2):
        assert await listening.ask() == 200
        assert await listening.ask(*headers, **changed) == status
    assert len(listening.passed) == 2
    # Twin: the same request again, with fields that count for nothing, passes.
    assert await listening.ask((b"accept", b"*/*"), (b"x-other", b"1")) == 200


async def test_what_passed_once_is_forgotten_of_whom_the_forwarded_fields_speak() -> None:
    listening = Listening()
    await listening.ask()
    await listening.ask((b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https"))
    await listening.ask()
    assert [scope["client"][0] for scope in listening.passed] == [PROXY, "192.0.2.7", PROXY]
    assert [scope["scheme"] for scope in listening.passed] == ["http", "https", "http"]


async def test_what_one_edge_serves_another_need_not() -> None:
    first, second = Listening(), Listening(EdgeSettings(hosts=frozenset({"other.test"}), methods=frozenset({"GET"})))
    assert (await first.ask(), await second.ask()) == (200, 421)
    assert (await second.ask(host=b"other.test"), await first.ask(host=b"other.test")) == (405, 421)


async def test_what_is_remembered_as_passing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_PASSED", 4)
    listening = Listening()
    for number in range(10):
        assert await listening.ask(path=b"/mcp/%d" % number) == 200
        assert len(listening.edge._passed) <= 4
    await listening.ask(path=b"/mcp/" + b"a" * 300)
    assert max(len(path) for _, _, path in listening.edge._passed) < edge._PASSED_BYTES
