"""What a process of our own runs first: the function that its parent named, with the arguments it left.

    python -P firewall/net/spawned.py FD [NUMBER …] -- [WORD …]

FD: an inherited file of two pickles, ``sys.path`` and then ``(function, arguments)``. The numbers become further
arguments; the words are for people. The file is read by position: several processes share it. Only `net.spawn`
starts this; it imports nothing of ours before the parent's path is set, and never from the working directory (``-P``).
"""

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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the function says otherwise: Ctrl-C is no traceback
    main(*map(int, sys.argv[1 : sys.argv.index("--")]))
