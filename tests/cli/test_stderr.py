"""What a run says on stderr waits for nobody: a full pipe, a lock that somebody holds, a stderr that is not there."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from firewall.cli.speaker import Speaker
from firewall.cli.stderr import SEPARATE, Stderr

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(write: int) -> None:
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * select.PIPE_BUF)
    except BlockingIOError:
        os.set_blocking(write, True)  # as a client hands it over: a write would wait


def drain(read: int) -> bytes:
    os.set_blocking(read, False)
    found = b""
    try:
        while data := os.read(read, 65_536):
            found += data
    except BlockingIOError:
        return found
    return found


def test_what_nobody_reads_is_left_out_and_the_next_text_is_whole(pipe: tuple[int, int]) -> None:
    read, write = pipe
    out = Stderr(write)
    fill(write)
    assert not out.write("lost\n")
    assert out.unread == 1
    drain(read)
    assert out.write("heard\n")
    assert (drain(read), out.unread) == (b"heard\n", 1)


def test_a_text_that_is_torn_by_a_full_pipe_is_marked_before_the_next_one(pipe: tuple[int, int]) -> None:
    read, write = pipe
    out = Stderr(write)
    assert not out.write("y" * 1_000_000)
    assert drain(read).strip(b"y") == b""
    assert out.write("next\n")
    assert drain(read) == (SEPARATE + "next\n").encode()


def test_who_speaks_does_not_wait_for_the_lock_of_sys_stderr(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("whoever stands still may hold it")

    read, write = pipe
    speaker = Speaker(as_json=False, out=Stderr(write))
    monkeypatch.setattr(sys, "stderr", Held())
    speaker.stuck(11.2)
    assert drain(read).startswith(b"bartizan: fault stuck: this guard stood still for 11 s")


def test_without_a_stderr_no_other_file_gets_its_words(monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not Stderr().write("words\n")
    assert drain(pipe[0]) == b""


def test_a_reader_that_is_gone_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    assert not Stderr(write).write("words\n")
    os.close(write)


def test_a_terminal_that_nobody_reads_is_not_waited_for() -> None:
    screen, terminal = os.openpty()
    out = Stderr(terminal)
    blocking = os.get_blocking(terminal)

    def speak() -> None:
        for _ in range(100):
            out.write("z" * 3_000 + "\n")

    speaking = threading.Thread(target=speak, daemon=True)
    speaking.start()
    speaking.join(5)
    assert not speaking.is_alive()
    assert out.unread > 0
    assert os.get_blocking(terminal) is blocking  # the shell's too: left as it was
    # Twin: once it is read, it is written to again.
    unread = out.unread
    while drain(screen):
        pass
    assert out.write("heard\n")
    assert out.unread == unread
    assert drain(screen).endswith(b"heard\r\n")
