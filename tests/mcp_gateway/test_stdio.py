"""Children over pipes: real programs in the cage, their death and their end (ISO-02, LO-2, DESIGN §6b-7)."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from firewall.core.errors import ConfigFault
from mcp_gateway import stdio
from mcp_gateway.sandbox import Support, detect
from mcp_gateway.settings import UpstreamSpec
from tests.support.mcp import BIN, NO_WALLS, running, spec

pytestmark = pytest.mark.flow
CHILD = Path(__file__).with_name("child.py")


@pytest.fixture(scope="session")
def support() -> Support:
    return detect()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "state" / "key"
    file.parent.mkdir()
    file.write_text("a key of the gateway")
    return file


@contextlib.asynccontextmanager
async def child(support: Support, tmp_path: Path, *arguments: str, **changes):
    command = (sys.executable, str(CHILD), *arguments)
    given = {"unsandboxed": True, "read": (str(CHILD), sys.prefix, sys.base_prefix), **changes}
    one = spec("kid", transport="stdio", command=command, **given)
    async with running(one, support=support, scratch=str(tmp_path / "scratch")) as stack:
        yield stack


async def call(stack, name: str, rpc_id: int = 1, **meta):
    answer = await stack.modern("/mcp/kid", "tools/call", {"name": name, "arguments": {}, "_meta": meta}, rpc_id=rpc_id)
    return json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))


def text(answer) -> str:
    return answer["result"]["content"][0]["text"]


def link_of(stack):
    """Return the link of the one child, whichever worker runs it."""
    if not stack.others:
        (link,) = stack.gateway._catalog.pool._links.values()
        return link
    (child,) = [c for w in stack.workers for c in w._catalog._launcher._children.values()]
    return child.link


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_published_stdio_server_answers_through_us_in_both_eras(mode: str, support: Support, tmp_path: Path):
    command = (str(BIN / "mcp-server-time"), "--local-timezone", "UTC")
    time = spec("time", transport="stdio", command=command, unsandboxed=True)
    async with running(time, support=support, scratch=str(tmp_path / "scratch")) as stack:
        async with stack.client("/mcp/time", mode=mode) as client:
            assert "get_current_time" in [tool.name for tool in (await client.list_tools()).tools]
            result = await client.call_tool("get_current_time", {"timezone": "Europe/Oslo"})
            assert not result.is_error
            assert "Europe/Oslo" in result.content[0].text
        pid = link_of(stack).pid
        assert alive(pid)
    assert not alive(pid)
    assert len(stack.tasks) == 0


@pytest.mark.parametrize("era", ["auto", "modern"])
async def test_a_modern_server_that_is_slow_to_start_is_no_broken_one(
    era: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its first answer comes after the probe was given up (npx downloads it): the SDK then refuses `initialize`."""
    monkeypatch.setattr(stdio, "PROBE_S", 0.5)
    slow = ("/bin/sh", "-c", f"sleep 1; exec {BIN / 'mcp-server-time'} --local-timezone UTC")
    time = spec("time", transport="stdio", command=slow, unsandboxed=True, era=era, sandbox="off")
    async with running(time, support=NO_WALLS, scratch=str(tmp_path / "scratch")) as stack:
        async with stack.client("/mcp/time", mode="auto") as client:
            result = await client.call_tool("get_current_time", {"timezone": "Europe/Oslo"})
            assert "Europe/Oslo" in result.content[0].text


async def test_a_child_reaches_nothing_of_ours(support: Support, tmp_path: Path, secret: Path):
    if not support.complete:
        pytest.skip(f"this kernel lacks {', '.join(support.missing)}")
    async with child(support, tmp_path, str(secret)) as stack:
        seen = json.loads(text(await call(stack, "report")))
        assert set(seen["environment"]) <= {"PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE"}
        assert seen["cwd"] == str(tmp_path / "scratch" / "default" / "kid")
        assert seen["scratch"] == "allowed"
        for wall in ("passwords", "processes", "secret", "parent"):
            assert seen[wall] == "PermissionError", wall
        assert seen["network"] == "OSError"  # an empty namespace: the network is unreachable


async def test_without_the_cage_the_same_child_reaches_all_of_it(tmp_path: Path, secret: Path):
    """The negative twin of the test above."""
    async with child(NO_WALLS, tmp_path, str(secret), sandbox="off") as stack:
        seen = json.loads(text(await call(stack, "report")))
        assert (seen["processes"], seen["secret"], seen["parent"]) == ("allowed", "allowed", "allowed")
        assert set(seen["environment"]) <= {"PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE"}


@pytest.mark.parametrize("name", ["die", "rubbish", "huge"])
async def test_a_child_that_breaks_ends_its_call_and_the_next_one_works(name: str, support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        assert text(await call(stack, "fine")) == "fine"
        pid = link_of(stack).pid
        async with asyncio.timeout(10):
            assert (await call(stack, name))["error"]["code"] == -31502
            assert text(await call(stack, "fine")) == "fine"
        assert not alive(pid)
        assert link_of(stack).pid != pid


async def test_a_child_that_keeps_dying_is_not_started_without_pause(support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        async with asyncio.timeout(45):
            for _ in range(12):
                error = (await call(stack, "die"))["error"]
                assert error["code"] == -31502
                if "could not be reached" in error["message"]:
                    break
        assert "could not be reached" in error["message"]


async def test_a_child_that_is_dying_as_the_worker_stops_is_waited_for(support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        await call(stack, "fine")
        process = link_of(stack)._process
        assert (await call(stack, "die"))["error"]["code"] == -31502
    assert process.returncode is not None


async def test_a_hanging_child_meets_its_deadline(support: Support, tmp_path: Path):
    async with child(support, tmp_path, deadline_s=0.5) as stack:
        async with asyncio.timeout(10):
            error = (await call(stack, "hang"))["error"]
        assert "in time" in error["message"]


async def test_stderr_is_counted_and_goes_nowhere(support: Support, tmp_path: Path, capfd):
    async with child(support, tmp_path) as stack:
        answer = await call(stack, "noise")
        assert text(answer) == "fine"
        assert link_of(stack).stderr_bytes > 100_000
        assert "IGNORE" not in json.dumps([answer, stack.kit.audit.records])
    assert "IGNORE" not in "".join(capfd.readouterr())


async def test_a_childs_question_is_answered_with_method_not_found(support: Support, tmp_path: Path):
    async with child(support, tmp_path, "legacy") as stack:
        answered = json.loads(text(await call(stack, "ask")))
        assert (answered["id"], answered["error"]["code"]) == ("q1", -32601)


async def test_progress_of_concurrent_calls_goes_to_its_own_caller(support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        await call(stack, "fine")

        async def one(token: str):
            asked = {"name": "progress", "arguments": {}, "_meta": {"progressToken": token}}
            answer = await stack.modern("/mcp/kid", "tools/call", asked, rpc_id=1)
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            return [e["params"]["progressToken"] for e in events if "params" in e]

        assert await asyncio.gather(one("a"), one("b"), one("c")) == [["a", "a"], ["b", "b"], ["c", "c"]]


async def test_what_a_child_started_dies_with_it(support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        await call(stack, "fork")
        group = link_of(stack).pid
    members = [p for p in Path("/proc").glob("[0-9]*/stat") if _group(p) == group and alive(int(p.parent.name))]
    assert members == []


def _group(stat: Path) -> int:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[2])
    except OSError:
        return -1


async def test_one_child_serves_all_callers_of_a_credential(support: Support, tmp_path: Path):
    async with child(support, tmp_path) as stack:
        await asyncio.gather(*(call(stack, "fine", n) for n in range(1, 9)))
        assert len(stack.gateway._catalog.pool._links) == 1


class TestConfiguration:
    def kid(self, **changes) -> UpstreamSpec:
        return spec("kid", transport="stdio", command=("/bin/true",), **changes)

    async def refused(self, one: UpstreamSpec, support: Support, tmp_path: Path, **settings) -> str:
        with pytest.raises(ConfigFault) as caught:
            async with running(one, support=support, scratch=str(tmp_path / "scratch"), settings=settings):
                pass
        return caught.value.code

    async def test_no_cage_at_all_must_be_written_down(self, tmp_path: Path):
        assert await self.refused(self.kid(), NO_WALLS, tmp_path) == "sandbox_missing"
        async with running(self.kid(unsandboxed=True), support=NO_WALLS, scratch=str(tmp_path)) as stack:
            assert stack.gateway.sandbox_missing["kid"] == ("landlock", "seccomp", "network namespace")

    async def test_a_kernel_without_seccomp_must_be_written_down(self, tmp_path: Path):
        some = Support(landlock=6, seccomp=False, network=True)
        assert await self.refused(self.kid(), some, tmp_path) == "sandbox_missing"
        async with running(self.kid(unsandboxed=True), support=some, scratch=str(tmp_path)) as stack:
            assert stack.gateway.sandbox_missing["kid"] == ("seccomp",)

    async def test_other_walls_may_be_missing(self, tmp_path: Path):
        some = Support(landlock=0, seccomp=True, network=False)
        async with running(self.kid(), support=some, scratch=str(tmp_path / "scratch")) as stack:
            assert stack.gateway.sandbox_missing["kid"] == ("landlock", "network namespace")

    def test_switching_the_cage_off_must_be_written_down(self):
        with pytest.raises(ConfigFault, match="upstream_unsandboxed"):
            self.kid(sandbox="off")

    async def test_required_means_every_wall(self, tmp_path: Path):
        partial = Support(7, True, False)
        assert await self.refused(self.kid(sandbox="required"), partial, tmp_path) == "sandbox_missing"
        async with running(self.kid(sandbox="auto"), support=partial, scratch=str(tmp_path)) as stack:
            assert stack.gateway.sandbox_missing["kid"] == ("network namespace",)

    async def test_no_child_is_given_a_path_that_reaches_keys_state_or_policy(self, tmp_path: Path):
        state = str(tmp_path / "state")
        for granted in (state, str(tmp_path), f"{state}/keys"):
            kid = self.kid(unsandboxed=True, read=(granted,))
            assert await self.refused(kid, NO_WALLS, tmp_path, private=(state,)) == "sandbox_private"

    @pytest.mark.parametrize("private", ["/opt/node/state", "/usr/local/var/node"])
    async def test_what_every_child_may_read_holds_neither_keys_nor_state(self, tmp_path: Path, private: str):
        every = Support(7, True, True)
        assert await self.refused(self.kid(), every, tmp_path, private=(private,)) == "sandbox_private"


async def test_a_child_dies_with_its_gateway(support: Support, tmp_path: Path):
    """kill -9 of the gateway: the death signal of the kernel reaches the child."""
    script = tmp_path / "gateway.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "from mcp_gateway.sandbox import Cage, command\n"
        "import os\n"
        "cage = Cage(('/bin/sleep', '60'), {}, sys.argv[1], landlock=False, seccomp=False, network=False, parent=os.getpid())\n"
        "argv, fd = command(cage)\n"
        "print(subprocess.Popen(argv, pass_fds=(fd,)).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    assert alive(pid)
    gateway.kill()
    await gateway.wait()
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.02)
