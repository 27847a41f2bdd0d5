"""A scripted browser for the tour: signs in and consents as a person would, with forms and cookies.

It knows nothing about the authorization server but HTML: it fills the fields that it has values
for, presses the button that approves, follows redirects on the same origin, and stops at the
client's redirect URI, which it reads instead of visiting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urljoin, urlsplit

if TYPE_CHECKING:
    import httpx2

MAX_STEPS = 8


@dataclass(slots=True)
class Form:
    """One HTML form: where it goes, its fields, and its buttons (name, value)."""

    action: str = ""
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").lower()))
        elif not self.forms:
            return
        elif tag == "input":
            kind = given.get("type", "text")
            if kind in ("checkbox", "radio") and "checked" not in given:
                return
            if kind == "submit":
                self.forms[-1].buttons.append((given.get("name", ""), given.get("value", "")))
            elif given.get("name"):
                self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button" and given.get("type", "submit") == "submit":
            self.forms[-1].buttons.append((given.get("name", ""), given.get("value", "")))


class ScriptedBrowser:
    """Walks from an authorization URL to the redirect, as one signed-in person."""

    def __init__(self, client: httpx2.AsyncClient, *, username: str, password: str) -> None:
        self._client = client
        self._values = {"username": username, "password": password}
        self.pages: list[str] = []

    async def visit(self, url: str, redirect_uri: str) -> dict[str, str]:
        """Return the query parameters that the authorization server sent to ``redirect_uri``.

        Raises RuntimeError when the walk ends anywhere else.
        """
        method, body = "GET", None
        for _ in range(MAX_STEPS):
            # What a browser says of a form whose page has no Referer (`net.own_page`).
            headers = {"Origin": "null", "Sec-Fetch-Site": "same-origin"} if method == "POST" else {}
            answer = await self._client.request(method, url, data=body, headers=headers, follow_redirects=False)
            if answer.is_redirect:
                target = urljoin(url, answer.headers["location"])
                if target.startswith(redirect_uri):
                    return {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
                url, method, body = target, "GET", None
                continue
            if answer.status_code != 200:
                raise RuntimeError(f"the sign-in page answered {answer.status_code}")
            url, method, body = self._submit(url, answer.text)
        raise RuntimeError("the sign-in did not come to an end")

    def _submit(self, url: str, page: str) -> tuple[str, str, dict[str, str] | None]:
        parser = _Forms()
        parser.feed(page)
        for form in parser.forms:
            approve = next((b for b in form.buttons if b[1] in ("approve", "allow", "yes")), None)
            if "password" in form.fields or approve is not None or len(parser.forms) == 1:
                values = {**form.fields}
                values.update({k: v for k, v in self._values.items() if k in form.fields})
                if approve is not None and approve[0]:
                    values[approve[0]] = approve[1]
                self.pages.append("sign-in" if "password" in form.fields else "consent")
                return urljoin(url, form.action or url), form.method.upper(), values
        raise RuntimeError("the page holds no form to fill")
