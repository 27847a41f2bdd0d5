"""`bartizan run`: one server, one client on a pipe; the pipe is clean, the server is caged, nothing of the place counts."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from firewall.cli import guarding
from firewall.core.errors import ConfigFault
from tests.support.composed import audit_records, modern, raw_exchange, request_bytes, warm_cache
from tests.support.pace import slack_s
from tests.support.pipe import BARTIZAN, CHILD, Pipe, alive, bartizan, environment, piped

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(45)]


@pytest.fixture(autouse=True)
def _compiled(tmp_path: Path) -> None:
    """Start with policy and patterns that an earlier test compiled."""
    with warm_cache(tmp_path / "xdg" / "bartizan"):
        pass


# -- the pipe ----------------------------------------------------------------------------------------------


def test_a_legacy_client_opens_lists_calls_and_leaves_without_a_trace_of_the_child(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        opened = pipe.open()
        assert opened["protocolVersion"] == "2025-11-25"
        assert {tool["name"] for tool in pipe.ask("tools/list")["result"]["tools"]} >= {"fine", "hang", "report"}
        assert pipe.ask("ping")["result"] == {}
        assert pipe.text("fine") == "fine"
        told = pipe.said("first contact")
        assert "bartizan --run child pins status" in told
        below = pipe.below()
        assert below
        code, took = pipe.end()
        assert (code, took < 2 + slack_s()) == (0, True)
        assert [pid for pid in below if alive(pid)] == []
    assert all(line["jsonrpc"] == "2.0" for line in pipe.lines)
    kinds = [record["kind"] for record in audit_records(pipe.state / "audit")]
    assert kinds.count("decision") > 5
    assert "log.damaged" not in kinds


def test_a_modern_client_probes_calls_and_cancels(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        found = pipe.ask("server/discover", modern=True)["result"]
        assert found["supportedVersions"] == ["2026-07-28"]
        slow = pipe.start("tools/call", {"name": "hang", "arguments": {}}, modern=True)
        time.sleep(0.1)
        pipe.notify("notifications/cancelled", {"requestId": slow})
        result = pipe.ask("tools/list", modern=True)["result"]
        assert result["resultType"] == "complete"
        assert pipe.end(signal.SIGTERM)[0] == 0
        assert slow not in [line.get("id") for line in pipe.lines]


def test_progress_reaches_the_client_as_lines_before_the_result(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        asked = pipe.start("tools/call", {"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}})
        assert "result" in pipe.answer(asked)
        steps = [line["params"]["progress"] for line in pipe.lines if line.get("method") == "notifications/progress"]
        assert steps == [1, 2]


def test_lines_that_are_no_messages_are_answered_and_the_next_one_is_served(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        for data, code in (
            (b"this is not JSON\n", -32700),
            (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}\n', -32600),
            (b'[{"jsonrpc":"2.0","id":9,"method":"ping"}]\n', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","x":"\xff"}\n', -32700),
            (b"[" + b"1," * (3 << 20) + b"1]\n", -32600),
        ):
            pipe.write(data)
            answer = pipe.next()
            assert answer["error"]["code"] == code
            assert answer["id"] is None
        pipe.write(b"\n\r\n")  # empty lines are nothing
        pipe.notify("notifications/nobody/knows")
        unknown = pipe.ask("nobody/knows")
        assert unknown["error"]["code"] == -32601
        pipe.write(b'{"jsonrpc":"2.0","id":"last","method":"ping"}')  # without a line end: stdin closes after it
        pipe.process.stdin.close()  # type: ignore[union-attr]
        assert pipe.answer("last")["result"] == {}
        assert pipe.process.wait(timeout=5) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_within_two_seconds_while_a_call_hangs(tmp_path: Path, how: int) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        pipe.start("tools/call", {"name": "hang", "arguments": {}})
        pipe.said("first contact")
        below = pipe.below()
        code, took = pipe.end(how)
        assert (code, took < 2 + slack_s()) == (0, True)
        assert [pid for pid in below if alive(pid)] == []


def test_a_killed_guard_takes_its_child_with_it(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        below = pipe.below()
        pipe.end(signal.SIGKILL)
        until = time.monotonic() + 3
        while any(alive(pid) for pid in below) and time.monotonic() < until:
            time.sleep(0.02)
        assert [pid for pid in below if alive(pid)] == []


HANGS = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))
"""


def test_a_guard_that_stands_still_ends_itself_and_its_child_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "hangs").mkdir()
    (tmp_path / "hangs" / "sitecustomize.py").write_text(HANGS)  # in the guard, not in its child
    environ = {"PYTHONPATH": str(tmp_path / "hangs")}
    with piped(tmp_path, (sys.executable, str(CHILD)), "--stuck-after", "3", environ=environ) as pipe:
        pipe.open()
        below = pipe.below()
        assert below
        pipe.process.send_signal(signal.SIGUSR1)
        pipe.said("stood still")
        assert pipe.process.wait(timeout=20) == 5
        until = time.monotonic() + 5
        while any(alive(pid) for pid in below) and time.monotonic() < until:
            time.sleep(0.02)
        assert [pid for pid in below if alive(pid)] == []


# -- the child ---------------------------------------------------------------------------------------------


def test_a_hostile_child_finds_nothing_of_the_user(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    target = (sys.executable, str(CHILD), str(secret))
    environ = {"AWS_SECRET_ACCESS_KEY": "x", "GIVEN": "yes"}
    with piped(tmp_path, target, "--env", "GIVEN", "--read", str(CHILD.parent), environ=environ) as pipe:
        pipe.open()
        seen = json.loads(pipe.text("report"))
        assert "GIVEN" in seen["environment"]
        assert "AWS_SECRET_ACCESS_KEY" not in seen["environment"]
        assert seen["secret"] == "PermissionError"
        assert seen["passwords"] == "PermissionError"
        assert seen["network"] != "allowed"
        assert seen["scratch"] == "allowed"
        pipe.text("noise")
        assert "IGNORE ALL" not in "".join(pipe.stderr)
    # The twin: with the walls taken down, in so many words, it reads what its user can read.
    with piped(tmp_path, target, "--no-sandbox", name="open") as pipe:
        pipe.open()
        assert json.loads(pipe.text("report"))["secret"] == "allowed"
        assert "WITHOUT a sandbox" in pipe.said("first contact")


def test_a_child_that_dies_or_babbles_is_an_error_for_its_call_and_starts_again(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        for tool in ("die", "rubbish"):
            assert pipe.call(tool)["error"]["code"] == -31502
        assert pipe.text("fine") == "fine"


def test_a_definition_that_changed_since_the_last_run_is_stopped_and_told(tmp_path: Path) -> None:
    changing = tmp_path / "server" / "changing.py"
    changing.parent.mkdir()
    source = CHILD.read_text()
    changing.write_text(source)
    target = (sys.executable, str(changing))
    with piped(tmp_path, target) as pipe:
        pipe.open()
        assert pipe.text("fine") == "fine"
        pipe.said("first contact")
    changing.write_text(source.replace('{"name": name,', '{"name": name, "description": "Now " + name,'))
    with piped(tmp_path, target) as pipe:
        pipe.open()
        told = pipe.said("wait for you")
        assert "pins diff child" in told
        assert "pins approve child --all" in told
        assert "fine" not in [tool["name"] for tool in pipe.ask("tools/list")["result"]["tools"]]
        assert pipe.call("fine").get("result", {}).get("isError") is not False
    changing.write_text(source)
    with piped(tmp_path, target) as pipe:
        pipe.open()
        assert pipe.text("fine") == "fine"


def test_where_it_may_connect_is_told_and_nothing_else_is_reached(tmp_path: Path) -> None:
    script = tmp_path / "server" / "reaching.py"
    script.parent.mkdir()
    script.write_text(
        CHILD.read_text().replace(
            '    if name == "noise":',
            '    if name == "fine":\n'
            "        import urllib.request\n"
            "        try:\n"
            '            text = urllib.request.urlopen(os.environ["PLACE"], timeout=5).read().decode()\n'
            "        except Exception as error:\n"
            "            text = repr(error)\n"
            '    if name == "noise":',
        )
    )

    class Answering:
        """A server on loopback that says hello to whoever connects."""

        def __enter__(self) -> int:
            code = (
                "import http.server as h\n"
                "class H(h.BaseHTTPRequestHandler):\n"
                "    def do_GET(self):\n"
                "        self.send_response(200); self.end_headers(); self.wfile.write(b'reached')\n"
                "    def log_message(self, *a): pass\n"
                "s = h.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()\n"
            )
            self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            assert self.process.stdout is not None
            return int(self.process.stdout.readline())

        def __exit__(self, *_: object) -> None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    target = (sys.executable, str(script))
    with Answering() as port:
        place = f"PLACE=http://127.0.0.1:{port}/"
        with piped(tmp_path, target, "--network", "loopback", "--env", place) as pipe:
            pipe.open()
            assert "reached" not in pipe.text("fine")
            assert f"--allow-host 127.0.0.1:{port}" in pipe.said("which was refused")
        with piped(tmp_path, target, "--env", place, "--allow-host", f"127.0.0.1:{port}") as pipe:
            pipe.open()
            assert "reached" not in pipe.text("fine")
            assert "loopback address; if that is right: --network loopback" in pipe.said("which was refused")
        with piped(
            tmp_path, target, "--network", "loopback", "--env", place, "--allow-host", f"127.0.0.1:{port}"
        ) as pipe:
            pipe.open()
            assert pipe.text("fine") == "reached"


# -- the place ---------------------------------------------------------------------------------------------


def test_nothing_is_read_from_the_working_directory(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for name, text in {
        "bartizan.yaml": "this: is not a configuration",
        ".env": "XDG_STATE_HOME=/nonexistent\n",
        "bartizan.lock": "}{",
        "firewall.py": "raise SystemExit('imported from the working directory')",
        "sitecustomize.py": "raise SystemExit('imported from the working directory')",
    }.items():
        (trap / name).write_text(text)
    (trap / "policies").mkdir()
    (trap / "policies" / ".manifest").write_text("}{")
    program = trap / "nothing-here"
    program.write_text("#!/bin/sh\necho trapped\n")
    program.chmod(0o755)
    path = f":.:{os.environ['PATH']}"
    with piped(tmp_path, cwd=trap, environ={"PATH": path}) as pipe:
        pipe.open()
        assert pipe.text("fine") == "fine"
    asked = [str(BARTIZAN), "run", "--", "nothing-here"]
    refused = subprocess.run(asked, cwd=trap, capture_output=True, text=True, env=environment(tmp_path, PATH=path))
    assert refused.returncode == 4
    assert "command_missing" in refused.stderr
    # A directory that is not there any more cannot be read from: it makes no difference.
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); os.execv({str(BARTIZAN)!r}, ['bartizan', 'run', '--name', 'child', '--', {sys.executable!r}, {str(CHILD)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=gone,
        input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        capture_output=True,
        env=environment(tmp_path),
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["id"] == 1


def test_two_runs_of_one_name_go_side_by_side(tmp_path: Path) -> None:
    with piped(tmp_path) as one:
        one.open()
        with piped(tmp_path) as two:
            two.open()
            assert one.text("fine") == two.text("fine") == "fine"
            assert two.end()[0] == 0
        assert one.text("fine") == "fine"


def test_an_operator_reads_and_moves_the_state_of_a_run_by_its_name(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        pipe.text("fine")
        pipe.said("first contact")
        _until_socket(pipe)
        pins = bartizan(tmp_path, "--run", "child", "pins", "status", "--json")
        assert pins.returncode == 0, pins.stderr
        assert {p["name"] for p in json.loads(pins.stdout)["pins"]} >= {"fine", "hang"}
        pulled = bartizan(tmp_path, "--run", "child", "kill", "--help")
        assert pulled.returncode == 0
    # Between runs the owner reads and moves the same state.
    between = bartizan(tmp_path, "--run", "child", "pins", "status", "--json")
    assert between.returncode == 0, between.stderr
    assert {p["name"] for p in json.loads(between.stdout)["pins"]} == {
        p["name"] for p in json.loads(pins.stdout)["pins"]
    }
    assert bartizan(tmp_path, "--run", "child", "users", "add", "x", stdin="").returncode == 2
    shown = bartizan(tmp_path, "--run", "child", "audit", "show", "--point", "mcp.tool.call", "--json")
    (record, *_) = json.loads(shown.stdout)["records"]
    assert record["action"]["resource"].endswith("fine")
    assert record["client"] == "local"
    assert bartizan(tmp_path, "--run", "child", "explain", record["exchange"]).returncode == 0
    assert bartizan(tmp_path, "--run", "child", "audit", "verify").returncode == 0
    assert bartizan(tmp_path, "--state-dir", str(pipe.state), "audit", "show").returncode == 0
    unknown = bartizan(tmp_path, "--run", "nobody", "audit", "show")
    assert unknown.returncode == 4
    assert "there are: child" in unknown.stderr
    assert bartizan(tmp_path, "--run", "child", "audit", "show", "--effect", "nosuch").returncode == 2


def _until_socket(pipe: Pipe) -> None:
    until = time.monotonic() + 15
    while not (pipe.state / "admin.sock").is_socket() and time.monotonic() < until:
        time.sleep(0.05)


# -- the HTTP face -----------------------------------------------------------------------------------------


def _served(tmp_path: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [str(BARTIZAN), "run", "--json", "--name", "child", *options, "--", sys.executable, str(CHILD)]
    return subprocess.Popen(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=environment(tmp_path),
    )  # fmt: skip


def _facts(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=5)
    assert process.stdout is not None
    process.stdout.close()
    return code


async def test_the_http_face_wants_its_token_its_host_and_no_foreign_origin(tmp_path: Path) -> None:
    kept = tmp_path / "token"
    process = _served(tmp_path, "--http", "--token-file", str(kept))
    try:
        told = _facts(process)
        assert kept.read_text().strip() == told["token"]
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        port = int(told["url"].split(":")[2].split("/")[0])
        body, headers = modern("tools/call", {"name": "fine", "arguments": {}})
        data = json.dumps(body).encode()
        good = {**headers, "authorization": f"Bearer {told['token']}"}

        async def post(pairs: dict[str, str], *, host: str = "") -> int:
            sent = request_bytes("/mcp/child", host or f"127.0.0.1:{port}", list(pairs.items()), data)
            return (await raw_exchange(port, sent)).status

        assert await post(good) == 200
        assert await post(headers) == 401
        assert await post({**good, "authorization": f"Bearer {'x' * 43}"}) == 401
        assert await post({**good, "origin": "http://evil.example"}) == 403
        assert await post(good, host="evil.example") == 421
    finally:
        assert _stop(process) == 0
    kept.chmod(0o644)
    refused = subprocess.run(
        [str(BARTIZAN), "run", "--http", "--token-file", str(kept), "--", sys.executable, str(CHILD)],
        capture_output=True, text=True, env=environment(tmp_path),
    )  # fmt: skip
    assert (refused.returncode, "token_file" in refused.stderr) == (4, True)


async def test_the_socket_face_is_reachable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.sock"
    process = _served(tmp_path, "--unix", str(path))
    try:
        told = _facts(process)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        body, headers = modern("tools/call", {"name": "fine", "arguments": {}})
        pairs = [*headers.items(), ("authorization", f"Bearer {told['token']}")]
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request_bytes("/mcp/child", "localhost", pairs, json.dumps(body).encode()))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        assert _stop(process) == 0
    assert not path.exists()


# -- how it is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--config", "x.yaml", "--", "true"), 2, "run_config"),
        (("--http", "--unix", "/tmp/x", "--", "true"), 2, "one face"),
        (("--", "no-such-program-anywhere"), 4, "not found on PATH"),
        (("--", "./no/such"), 4, "there is no such file"),
        (("--env", "NOT_SET_ANYWHERE", "--", "true"), 4, "env_missing"),
        (("--read", "/no/such/place", "--", "true"), 4, "path_missing"),
        (("--effects", "x", "--", "true"), 2, "TOOL=CLASS"),
        (("--effects", "x=y", "--", "true"), 4, "upstream_effect"),
        (("--name", "Not A Name", "--", "true"), 4, "upstream_name"),
        (("--asks", "money", "--", "true"), 2, "run_asks"),
        (("https://mcp.example/mcp", "--read", "/tmp"), 2, "no cage"),
        (("http://mcp.example/mcp",), 4, "plain_http"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_a_mend(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = bartizan(tmp_path, "run", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_that_reaches_our_state_is_refused(tmp_path: Path) -> None:
    done = bartizan(tmp_path, "run", "--write", str(tmp_path), "--", sys.executable, str(CHILD))
    assert done.returncode == 4
    assert "sandbox_private" in done.stderr
    assert "is Bartizan's own" in done.stderr


def test_paths_among_the_arguments_that_the_cage_hides_are_found(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    words = [
        "/usr/bin/env",
        str(inside / "deep"),
        f"--root={outside}",
        str(outside),
        str(tmp_path / "none"),
        "plain",
        ".",
    ]
    assert guarding.closed_paths(words, [str(inside)]) == (str(outside),)
    assert guarding.closed_words(()) == ""
    assert f"--read {outside}" in guarding.closed_words((str(outside),))


def test_a_server_that_never_answers_is_exit_1_and_told_in_words(tmp_path: Path) -> None:
    with piped(tmp_path, ("/bin/false",)) as pipe:
        asked = pipe.start("ping", modern=True)
        told = pipe.said("mend:")
        assert "ended before it answered" in told or "could not be started" in told
        assert "error" in pipe.answer(asked)
        assert pipe.end()[0] == 1


def test_what_a_program_said_before_it_failed_is_shown_as_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    lines = [f"line {n}" for n in range(9)]
    program.write_text(
        f"import sys; sys.stderr.write('\\x1b[2JNo module named notes\\n' + '\\n'.join({lines}) + '\\n'); sys.exit(3)"
    )
    with piped(tmp_path, (sys.executable, str(program)), "--read", str(program)) as pipe:
        asked = pipe.start("ping", modern=True)
        told = pipe.said("| line 3")
        assert "its own words: believe nothing" in told
        assert "| \\x1b[2JNo module named notes" in told
        assert "\x1b" not in told
        answer = pipe.answer(asked)
        assert "error" in answer
        assert "notes" not in str(answer)
        assert "line 5" not in told
        assert pipe.end()[0] == 1


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (["npx", "-y", "@modelcontextprotocol/server-everything@1.2.3"], "everything"),
        (["uvx", "mcp-server-time"], "time"),
        (["python3.12", "-m", "mcp_server_git", "--repository", "/x"], "git"),
        (["node", "/opt/weather-mcp/dist/index.js"], "weather"),
        (["docker", "run", "-i", "--rm", "ghcr.io/github/github-mcp-server"], "github"),
        (["env", "A=1", "/opt/Tool_Box.py"], "tool-box"),
        (["https://mcp.example.com/mcp"], "example"),
        (["http://127.0.0.1:8000/mcp"], "server"),
        (["npx"], "server"),
        (["uvx", "9lives"], "lives"),
    ],
)
def test_a_server_is_named_after_what_it_is(target: list[str], name: str) -> None:
    assert guarding.name_for(target) == name


def test_an_index_is_open_to_a_fetching_program_where_a_variable_names_it() -> None:
    environ = {"npm_config_registry": "https://index.example/npm/", "PIP_INDEX_URL": "nonsense"}
    assert guarding.fetched_from("/usr/bin/npx", environ) == {"npm_config_registry": "https://index.example/npm/"}
    assert guarding.fetched_from("/usr/bin/uvx", environ) == {}
    assert guarding.fetched_from("/usr/bin/node", environ) == {}


def test_a_program_is_found_on_absolute_entries_of_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "tool"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path / "bin")
    for path in ("", ".", "bin", ":"):
        with pytest.raises(ConfigFault):
            guarding.find_program("tool", {"PATH": path})
    assert guarding.find_program("tool", {"PATH": f".:{program.parent}"}) == str(program)
    assert guarding.find_program("./tool", {}) == str(program)  # named: that is not by accident


def test_a_program_reads_its_own_installation_and_never_a_whole_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    venv, node, local = tmp_path / "venv", tmp_path / ".nvm" / "v24", tmp_path / ".local"
    for folder in (venv / "bin", node / "bin", node / "lib" / "node_modules", local / "bin", local / "lib/python3.12"):
        folder.mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("")
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    for path, first in (
        (venv / "bin/server", f"#!{venv}/bin/python"),
        (node / "bin/npx", "#!/usr/bin/env node"),
        (local / "bin/tool", f"#!{venv}/bin/python"),
    ):
        path.write_text(first + "\n")
    assert str(venv) in guarding.program_paths(str(venv / "bin/server"))
    assert str(node) in guarding.program_paths(str(node / "bin/npx"))
    found = guarding.program_paths(str(local / "bin/tool"))
    assert str(venv) in found  # its interpreter's environment
    assert not {str(tmp_path), str(local), "/usr", "/"} & set(found)


def test_state_stands_where_the_user_says_and_a_relative_place_does_not_count() -> None:
    assert guarding.run_root({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/bartizan/run")
    assert guarding.run_root({"XDG_STATE_HOME": "s", "HOME": "/h"}) == Path("/h/.local/state/bartizan/run")
    with pytest.raises(ConfigFault):
        guarding.run_root({"HOME": "h"})


def test_a_pipe_without_answers_stays_silent(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        pipe.notify("notifications/cancelled", {"requestId": "nobody"})
        pipe.send({"jsonrpc": "2.0", "id": "stray", "result": {}})
        with pytest.raises(queue.Empty):
            pipe.next(within_s=0.3)
