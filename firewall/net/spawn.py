"""Processes of our own: a fresh interpreter that calls one function of ours.

`multiprocessing` would do, at a price: it starts a process beside them that watches for semaphores, and each child
imports the parent's program again, which for us is every command. A job here is a pickle in memory that the child
inherits; what parent and children share is mapped memory that they inherit too. Neither has a name in the file system.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

SCRIPT: Final = str(Path(__file__).with_name("spawned.py"))


def unnamed_file(content: bytes) -> int:
    """Return the descriptor of a file without a name that holds these bytes; children may inherit it when told."""
    try:
        descriptor = os.memfd_create("bartizan", os.MFD_CLOEXEC)
    except AttributeError:  # not Linux, or a Python built for any: those that uv installs
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as writer:
        writer.write(content)
    return descriptor


class Job:
    """A function of a module and its arguments, all picklable, kept for processes that start now or later."""

    def __init__(self, function: Callable[..., int | None], *arguments: Any) -> None:
        """function: its return value is the exit code (None: 0)."""
        self._file = unnamed_file(pickle.dumps(sys.path) + pickle.dumps((function, arguments)))

    def start(self, *numbers: int, shared: Sequence[int] = (), title: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a process that calls it, the numbers as its last arguments.

        shared: descriptors that the child gets under the same numbers. title: words for who lists processes.
        Standard input is empty, output is ours.
        """
        command = self._command(numbers, title)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(self._file, *shared), close_fds=True)

    def become(self, *, title: Sequence[str] = ()) -> NoReturn:
        """Be that process from now on: same process id, same standard streams, none of the memory."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # we were started with it closed
                stream.flush()
        os.set_inheritable(self._file, True)
        command = self._command((), title)
        os.execv(command[0], command)  # noqa: S606  our own interpreter, by its path

    def close(self) -> None:
        """Forget it; processes that run go on."""
        os.close(self._file)

    def _command(self, numbers: Sequence[int], title: Sequence[str]) -> list[str]:
        # The flags that multiprocessing hands on, too: -I, -O, -W and the like hold for children as well.
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        flags = [flag for flag in flags if flag != "-P"]
        return [sys.executable, *flags, "-P", SCRIPT, str(self._file), *map(str, numbers), "--", *title]
