"""What a process of our own runs first: the function that its parent named, with the arguments it left.

    python -P firewall/net/spawned.py FD [NUMBER …] -- [WORD …]

FD: an inherited file of two pickles, ``sys.path`` and then ``(function, arguments)``. The numbers become further
arguments; the words are for people, and the first of them is the process's name. The file is read by position: several processes share it. Only `net.spawn`
starts this; it imports nothing of ours before the parent's path is set, and never from the working directory (``-P``).
"""

import contextlib
import io
import os
import pickle
import signal
import sys


def main(descriptor: int, *numbers: int) -> None:
    """Call what the file holds; its return value is the exit code where it is a number."""
    size = os.fstat(descriptor).st_size
    with io.BytesIO(os.pread(descriptor, size, 0)) as file:
        os.close(descriptor)
        sys.path[:] = pickle.load(file)  # noqa: S301  our parent's, by a descriptor that nobody else has
        function, arguments = pickle.load(file)  # noqa: S301  as above
    sys.exit(function(*arguments, *numbers))


def name(words: list[str]) -> None:
    """Let the kernel call this process by its first word (15 bytes), as `ps`, `top` and `pgrep` show it; else ``python``."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:  # not Linux, or no /proc
        comm.write(os.path.basename(words[0]).encode("utf-8", "surrogateescape")[:15])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the function says otherwise: Ctrl-C is no traceback
    end = sys.argv.index("--")
    if sys.argv[end + 1 :]:
        name(sys.argv[end + 1 :])
    main(*map(int, sys.argv[1:end]))
