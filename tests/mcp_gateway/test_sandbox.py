"""The cage by itself: its one exit, its limits, and what seccomp refuses."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from mcp_gateway.sandbox import Cage, Support, command, detect

SUPPORT = detect()


async def start(cage: Cage) -> asyncio.subprocess.Process:
    argv, fd = command(cage)
    try:
        return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env={}, pass_fds=(fd,))
    finally:
        os.close(fd)


async def run(code: str, cwd: Path, **changes) -> tuple[int, str]:
    """Run Python code in a cage; return its exit code and what it said."""
    given = {
        "landlock": SUPPORT.landlock > 0,
        "seccomp": SUPPORT.seccomp,
        "network": SUPPORT.network,
        "read": (sys.prefix, sys.base_prefix),
        **changes,
    }
    cage = Cage((sys.executable, "-c", code), {"PATH": "/usr/bin:/bin"}, str(cwd), **given)
    process = await start(cage)
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.skipif(not SUPPORT.network, reason="no network namespace here")
async def test_the_only_way_out_is_the_socket_of_our_proxy(tmp_path: Path):
    seen = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(proxy, tmp_path / "out.sock")
    code = (
        "import os, socket\n"
        "host, port = os.environ['HTTPS_PROXY'].removeprefix('http://').split(':')\n"
        "s = socket.create_connection((host, int(port)), 5)\n"
        "s.sendall(b'CONNECT example.org:443 HTTP/1.1\\r\\n\\r\\n')\n"
        "print(s.recv(100).decode().split()[1])\n"
        "try: socket.create_connection(('192.0.2.1', 80), 0.2)\n"
        "except OSError as e: print(e.errno)\n"
        "raise SystemExit(7)\n"
    )
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    exit_code, said = await run(code, cwd, egress_socket=str(tmp_path / "out.sock"))
    server.close()
    assert exit_code == 7  # the supervisor hands the program's own exit code on
    assert said.split() == ["403", "101"]  # 101: network is unreachable
    assert seen == [b"CONNECT example.org:443 HTTP/1.1\r\n\r\n"]


@pytest.mark.skipif(not SUPPORT.seccomp, reason="no seccomp here")
@pytest.mark.parametrize("seccomp", [True, False])
async def test_a_unix_socket_of_ours_is_out_of_reach(tmp_path: Path, seccomp: bool):
    """The operator's socket trusts our user id, which every child has. The twin without seccomp reaches it."""
    server = await asyncio.start_unix_server(lambda _r, w: w.close(), tmp_path / "admin.sock")
    code = (
        "import socket\n"
        f"try: socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'admin.sock')!r}); print('reached')\n"
        "except OSError as e: print(e.errno)\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):\n"
        "    socket.socket(family, socket.SOCK_RAW if family == socket.AF_NETLINK else socket.SOCK_STREAM).close()\n"
        "a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1).decode())\n"
    )
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    exit_code, said = await run(code, cwd, seccomp=seccomp)
    server.close()
    assert exit_code == 0
    assert said.split() == ["97" if seccomp else "reached", "x"]  # 97: address family not supported


@pytest.mark.skipif(not SUPPORT.seccomp, reason="no seccomp here")
async def test_system_calls_that_widen_the_attack_surface_are_refused(tmp_path: Path):
    code = (
        "import ctypes, json\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def errno(number, *given):\n"
        "    return ctypes.get_errno() if libc.syscall(number, *given) < 0 else 0\n"
        "print(json.dumps([errno(101, 0, 0, 0, 0), errno(272, 0x10000000), errno(165, 0, 0, 0, 0, 0), errno(435, 0, 0)]))\n"
    )
    if __import__("platform").machine() != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    _, said = await run(code, tmp_path)
    assert json.loads(said) == [1, 1, 1, 38]  # EPERM for ptrace, unshare, mount; ENOSYS for clone3
    _, free = await run(code, tmp_path, seccomp=False)
    assert json.loads(free) != [1, 1, 1, 38]  # the twin


async def test_threads_and_programs_still_work_in_the_cage(tmp_path: Path):
    code = (
        "import threading, subprocess\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "print(subprocess.run(['/bin/echo', 'program'], capture_output=True, text=True).stdout)\n"
    )
    exit_code, said = await run(code, tmp_path)
    assert (exit_code, said.split()) == (0, ["thread", "program"])


async def test_limits_hold(tmp_path: Path):
    code = (
        "import resource, json\n"
        "names = 'CORE NOFILE DATA MEMLOCK MSGQUEUE'.split()\n"
        "print(json.dumps([resource.getrlimit(getattr(resource, f'RLIMIT_{n}'))[0] for n in names]))\n"
    )
    _, said = await run(code, tmp_path, files=99, data_bytes=1 << 30)
    assert json.loads(said) == [0, 99, 1 << 30, 1 << 20, 0]


async def test_a_program_that_does_not_exist_ends_with_127(tmp_path: Path):
    cage = Cage(("/no/such/program",), {}, str(tmp_path), landlock=False, seccomp=False, network=False)
    process = await start(cage)
    await process.communicate()
    assert process.returncode == 127


def test_a_support_names_what_is_missing():
    assert Support(0, True, False).missing == ("landlock", "network namespace")
    assert Support(3, True, True).complete


async def test_the_environment_of_a_child_never_stands_in_arguments(tmp_path: Path):
    cage = Cage(("/bin/sleep", "5"), {"SECRET": "s3cret-value"}, str(tmp_path), network=False)
    argv, fd = command(cage)
    os.close(fd)
    assert "s3cret-value" not in " ".join(argv)


async def test_a_python_without_memory_files_starts_programs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as in those that uv installs, and on other systems
    assert await run("print('runs')", tmp_path) == (0, "runs\n")
