"""A client on a pipe: starts ``bartizan run`` as MCP clients do, writes lines, reads lines. No SDK in between."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.composed import META, warm_cache

BARTIZAN = Path(sys.executable).parent / "bartizan"
CHILD = Path(__file__).resolve().parents[1] / "mcp_gateway" / "child.py"
PATIENCE_S = 30.0


@dataclass
class Pipe:
    """A running guard, and what it wrote. ``lines`` holds every line of stdout, parsed."""

    process: subprocess.Popen[bytes]
    state: Path
    stderr: list[str] = field(default_factory=list)
    lines: list[Any] = field(default_factory=list)
    _fresh: queue.Queue[Any] = field(default_factory=queue.Queue)
    _ids: int = 0

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message."""
        self.write(json.dumps(message).encode() + b"\n")

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Write a notification."""
        self.send({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})

    def start(self, method: str, params: Mapping[str, Any] | None = None, *, modern: bool = False) -> int:
        """Write a request; return its id."""
        self._ids += 1
        given = dict(params or {})
        if modern:
            given["_meta"] = {**META, **given.get("_meta", {})}
        self.send({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": given})
        return self._ids

    def next(self, *, within_s: float = PATIENCE_S) -> Any:
        """Return the next line. Raises queue.Empty."""
        found = self._fresh.get(timeout=within_s)
        if isinstance(found, Exception):
            raise found
        return found

    def answer(self, rpc_id: Any, *, within_s: float = PATIENCE_S) -> Any:
        """Return the response to a request; what comes before it stays in ``lines``."""
        until = time.monotonic() + within_s
        while True:
            line = self.next(within_s=max(0.01, until - time.monotonic()))
            if isinstance(line, dict) and line.get("id") == rpc_id and "method" not in line:
                return line

    def ask(self, method: str, params: Mapping[str, Any] | None = None, *, modern: bool = False) -> Any:
        """Write a request and return its response."""
        return self.answer(self.start(method, params, modern=modern))

    def open(self, version: str = "2025-11-25", capabilities: Mapping[str, Any] | None = None) -> Any:
        """Open a legacy session; return the result of ``initialize``."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": dict(capabilities or {}), "clientInfo": info}
        result = self.ask("initialize", params)["result"]
        self.notify("notifications/initialized")
        return result

    def call(self, tool: str, arguments: Mapping[str, Any] | None = None, *, modern: bool = False) -> Any:
        """Call a tool; return the whole response."""
        return self.ask("tools/call", {"name": tool, "arguments": dict(arguments or {})}, modern=modern)

    def text(self, tool: str, arguments: Mapping[str, Any] | None = None) -> str:
        """Call a tool; return the text of its result."""
        return str(self.call(tool, arguments)["result"]["content"][0]["text"])

    def said(self, words: str, *, within_s: float = PATIENCE_S) -> str:
        """Return stderr once it holds some words."""
        until = time.monotonic() + within_s
        while words not in (text := "".join(self.stderr)):
            if time.monotonic() > until:
                raise AssertionError(f"{words!r} is not in: {text}")
            time.sleep(0.02)
        return text

    def below(self) -> list[int]:
        """Return every process below the guard."""
        found, fresh = [], [self.process.pid]
        while fresh:
            fresh = [pid for parent in fresh for pid in _children(parent)]
            found += fresh
        return found

    def end(self, how: int | None = None, *, within_s: float = 15.0) -> tuple[int, float]:
        """Close stdin, or send a signal; return the exit code and how long it took, seconds."""
        began = time.monotonic()
        if how is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
        else:
            self.process.send_signal(how)
        return self.process.wait(timeout=within_s), time.monotonic() - began


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not count as gone."""
    return Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user whose state is the test's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home), "XDG_STATE_HOME": str(home / "xdg"), **more}


@contextlib.contextmanager
def piped(
    home: Path,
    target: Sequence[str] = (sys.executable, str(CHILD)),
    *options: str,
    name: str = "child",
    cwd: Path | str = "/",
    environ: Mapping[str, str] | None = None,
) -> Iterator[Pipe]:
    """Run ``bartizan run`` on a target and give its pipe; end it afterwards, killed if need be."""
    home.mkdir(parents=True, exist_ok=True)
    dashes = [] if target[0].startswith("http") else ["--"]
    with warm_cache(home / "xdg" / "bartizan"):
        process = subprocess.Popen(
            [str(BARTIZAN), "run", "--name", name, *options, *dashes, *target],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(home, **(environ or {})),
            start_new_session=True,
        )
    pipe = Pipe(process, home / "xdg" / "bartizan" / "run" / name)
    readers = [threading.Thread(target=_follow, args=(pipe,)), threading.Thread(target=_listen, args=(pipe,))]
    for reader in readers:
        reader.start()
    try:
        yield pipe
    finally:
        below = pipe.below() if process.poll() is None else []
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for reader in readers:
            reader.join(5)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


def _follow(pipe: Pipe) -> None:
    assert pipe.process.stdout is not None
    for line in pipe.process.stdout:
        try:
            value = json.loads(line)
        except ValueError:
            pipe._fresh.put(AssertionError(f"stdout held something that is no message: {line[:200]!r}"))
            continue
        pipe.lines.append(value)
        pipe._fresh.put(value)


def _listen(pipe: Pipe) -> None:
    assert pipe.process.stderr is not None
    for line in pipe.process.stderr:
        pipe.stderr.append(line.decode("utf-8", "replace"))


def bartizan(home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run another command as the same user."""
    return subprocess.run(
        [str(BARTIZAN), *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        input=stdin,
        env=environment(home),
    )
