"""The cage of a stdio child: rlimits, Landlock, seccomp, a network namespace with one exit (ISO-02).

Two faces. Imported, it says what the kernel offers (`Support`) and builds the command line that
starts a caged program. Run as a script (``python -I -S sandbox.py FD``), it *is* the start of the
child: it cages itself and becomes the program. It therefore imports the standard library only.

    gateway ── spawn ──▶ keeper: death signal, rlimits, network and process namespace
                           └─ fork ─▶ first process of the namespace: reaps, ends with the program; forwards
                                        │  127.0.0.1:port → unix socket of our egress proxy, where there is an exit
                                        └─ fork ─▶ cage ─▶ exec program

Whatever a program starts ends with it, however it hides (setsid, double fork), and all of it ends with the gateway,
killed ones too: with its first process the kernel ends a whole namespace. Where there is none, the keeper adopts what
is orphaned and ends it; there, whoever kills the keeper itself at the same time leaves behind what left its group.

Sources: landlock(7), seccomp(2), prctl(2), network_namespaces(7), pid_namespaces(7), user_namespaces(7).
What is missing is never silently skipped: `Support` names it, and configuration decides.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess  # noqa: TID251  the probe; stdio.py starts what this file cages
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = os.uname().machine
_LINUX = sys.platform == "linux"

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
END_ALL = signal.SIGUSR1  # to the keeper: end the program and whatever it started, and then yourself
SWEEPS = 200  # of the keeper over what is left, 10 ms apart: a program that forks faster has a limit of processes
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
_READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR
_ON_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV

# Readable by every child: libraries, certificates and names; never /proc, whose files show others' environments.
SYSTEM_READ = (
    "/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
    "/etc/ca-certificates.conf", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/gai.conf", "/etc/services",
    "/etc/protocols", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/timezone", "/etc/mime.types",
    "/etc/gitconfig", "/sys/devices/system/cpu",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# System calls that no MCP server needs and that widen the kernel's attack surface or reach other
# processes; each answers EPERM. x86_64 and aarch64 numbers (asm/unistd_64.h, asm-generic/unistd.h).
_DENIED = {
    "x86_64": {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "unshare": 272,
        "setns": 308, "swapon": 167, "swapoff": 168, "reboot": 169, "kexec_load": 246, "kexec_file_load": 320,
        "init_module": 175, "finit_module": 313, "delete_module": 176, "bpf": 321, "perf_event_open": 298,
        "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "open_by_handle_at": 304,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "acct": 163, "quotactl": 179,
        "settimeofday": 164, "clock_settime": 227, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    },
    "aarch64": {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438,
        "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "unshare": 97,
        "setns": 268, "swapon": 224, "swapoff": 225, "reboot": 142, "kexec_load": 104, "kexec_file_load": 294,
        "init_module": 105, "finit_module": 273, "delete_module": 106, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219, "open_by_handle_at": 265,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "acct": 89, "quotactl": 60,
        "settimeofday": 170, "clock_settime": 112, "sethostname": 161, "setdomainname": 162,
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_SOCKET = {"x86_64": 41, "aarch64": 198}
# What a program may open a socket of: its own two networks, and the kernel's list of their addresses.
# A unix socket is reached by its path, past Landlock and the network namespace: the operator's own and
# other children's doors lie there, and the peer's user id is ours. AF_VSOCK leaves a virtual machine.
_FAMILIES = (socket.AF_INET, socket.AF_INET6, 16)
_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone(2) takes


@dataclass(frozen=True, slots=True)
class Support:
    """What this kernel lets us use. landlock: ABI version, 0 when absent."""

    landlock: int
    seccomp: bool
    network: bool

    @property
    def complete(self) -> bool:
        """Whether all three walls stand."""
        return self.landlock > 0 and self.seccomp and self.network

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the walls that this kernel does not give."""
        walls = {"landlock": self.landlock > 0, "seccomp": self.seccomp, "network namespace": self.network}
        return tuple(name for name, stands in walls.items() if not stands)


@dataclass(frozen=True, slots=True)
class Cage:
    """What one child gets.

    argv, env, cwd: the program. read, write: paths beside SYSTEM_READ. egress_socket: unix socket of
    the egress proxy, "" for no exit at all. data_bytes: private memory, locked_bytes: what of it may be
    locked; file_bytes: the longest file; files: open ones.
    parent: pid of the gateway; a child whose gateway died before the death signal was set ends.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    landlock: bool = True
    seccomp: bool = True
    network: bool = True
    egress_socket: str = ""
    data_bytes: int = 2 * 1024**3
    file_bytes: int = 1024**3
    files: int = 1024
    processes: int = 512
    locked_bytes: int = 1024**2
    parent: int = 0


def command(cage: Cage) -> tuple[list[str], int]:
    """Return the argument vector that starts a caged child, and the descriptor it must inherit.

    The descriptor holds the cage: its environment may carry secrets, and arguments can be read by
    others for as long as a process lives. The caller closes it after the start. ``-I -S``: nothing of
    the caller's own Python settings is read.
    """
    fd = _unnamed()
    os.write(fd, json.dumps(asdict(cage)).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(fd)], fd


def _unnamed() -> int:
    """Return the descriptor of an empty file without a name."""
    try:
        return os.memfd_create("cage", 0)
    except AttributeError:  # not Linux, or a Python built for any: those that uv installs
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def detect() -> Support:
    """Return what the kernel offers. Tries a network namespace in a process of its own; takes about 20 ms."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), "--probe"],
            capture_output=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        told = json.loads(done.stdout)  # noqa: TID251  our own words; the standard library only
        return Support(int(told["landlock"]), bool(told["seccomp"]), bool(told["network"]))
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return Support(0, False, False)


# -- the script -------------------------------------------------------------------------------------------


def _probe() -> None:
    abi = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    network = True
    try:
        _own_network()
    except OSError:
        network = False
    seccomp = _MACHINE in _DENIED
    if seccomp:
        try:
            _filter_calls()
        except OSError:
            seccomp = False
    sys.stdout.write(json.dumps({"landlock": max(abi, 0), "seccomp": seccomp, "network": network}))


def _main(fd: int) -> None:
    with os.fdopen(fd, "rb") as file:
        spec = json.load(file)  # noqa: TID251  our own words; the standard library only
    _prctl(PR_SET_PDEATHSIG, END_ALL)
    if spec["parent"] and os.getppid() != spec["parent"]:
        os._exit(125)  # the gateway died before the death signal was set
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, spec["data_bytes"]),
        (resource.RLIMIT_FSIZE, spec["file_bytes"]),
        (resource.RLIMIT_NOFILE, spec["files"]),
        (resource.RLIMIT_NPROC, spec["processes"]),
        (resource.RLIMIT_MEMLOCK, spec["locked_bytes"]),
        # POSIX message queues reach other programs of this user past every wall but the network's.
        (getattr(resource, "RLIMIT_MSGQUEUE", resource.RLIMIT_CORE), 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    env = dict(spec["env"])
    os.chdir(spec["cwd"])
    if spec["network"]:
        _own_network()
    listener = _exit_for(env) if spec["network"] and spec["egress_socket"] else None
    if _LINUX or listener is not None:
        _keep(listener, str(spec["egress_socket"]), apart=bool(spec["network"]))
    _become(spec, env)


def _exit_for(env: dict[str, str]) -> socket.socket:
    """Return what listens for the program's way out, named in its environment."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        env[name] = proxy
    env["NODE_USE_ENV_PROXY"] = "1"
    return listener


def _keep(listener: socket.socket | None, egress_socket: str, *, apart: bool) -> None:
    """Fork: the keeper waits for the program and ends what it left; the child returns and becomes the program.

    apart: in a process namespace of its own, where the kernel gives one beside the network's.
    """
    apart = apart and _LINUX and _libc.unshare(CLONE_NEWPID) == 0
    if _LINUX and not apart:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        for number in (signal.SIGTERM, signal.SIGINT, END_ALL):
            signal.signal(number, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(theirs)
        if select.select([ours], [], [], 0)[0]:  # the keeper died before the death signal was set
            os._exit(125)
        if apart:
            _first(listener, egress_socket)
        elif listener is not None:
            listener.close()
        return

    over = False

    def end(_number: int, _frame: object) -> None:
        if not over:  # its number may be another process's since it was waited for
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _sweep()
        os._exit(128 + signal.SIGKILL)

    os.close(ours)
    signal.signal(END_ALL, end)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group got it too: we end with the program
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _let_go()
    if not apart:  # a process that is between two namespaces cannot have threads
        _forward(listener, egress_socket)
    code = _wait_for(child)
    over = True
    _sweep()
    os._exit(code)


def _first(listener: socket.socket | None, egress_socket: str) -> None:
    """As the first process of a namespace: fork, reap, end with the program; the child returns and becomes it."""
    program = os.fork()
    if program == 0:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if listener is not None:
            listener.close()
        return
    _let_go()
    _forward(listener, egress_socket)
    os._exit(_wait_for(program))


def _forward(listener: socket.socket | None, egress_socket: str) -> None:
    if listener is not None:
        threading.Thread(target=_accept, args=(listener, egress_socket), daemon=True).start()


def _wait_for(program: int) -> int:
    """Reap whatever ends, until the program does; return its exit code as a shell tells it."""
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _let_go() -> None:
    """Close what belongs to the program alone, so that its end is seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _sweep() -> None:
    """End what the program started and left: it is ours now, since we adopt orphans; so are those that these leave."""
    for _ in range(SWEEPS):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for left in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(left, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    """Return our own children, whichever of our threads made them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as file:
                found += [int(pid) for pid in file.read().split()]
    return found


def _accept(listener: socket.socket, path: str) -> None:
    slots = threading.BoundedSemaphore(64)
    while True:
        near, _ = listener.accept()
        if not slots.acquire(blocking=False):
            near.close()
            continue
        threading.Thread(target=_carry, args=(near, path, slots), daemon=True).start()


def _carry(near: socket.socket, path: str, slots: threading.BoundedSemaphore) -> None:
    try:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(path)
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()
    except OSError:
        return
    finally:
        slots.release()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _become(spec: dict[str, object], env: dict[str, str]) -> None:
    os.closerange(3, 4096)
    if spec["landlock"]:
        read, write = spec["read"], spec["write"]
        assert isinstance(read, list)
        assert isinstance(write, list)
        _restrict_files([*SYSTEM_READ, *read], [*write, str(spec["cwd"])])
    _drop_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if spec["seccomp"]:
        _filter_calls()
    argv = spec["argv"]
    assert isinstance(argv, list)
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606  the operator's own command, no shell
    except OSError as error:
        os._exit(127 if error.errno == errno.ENOENT else 126)


def _own_network() -> None:
    """Enter an empty network namespace and raise its loopback; without privilege, in a user namespace."""
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if _libc.unshare(flags) != 0:
        if uid != 0 or _libc.unshare(CLONE_NEWNET | CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        flags |= CLONE_NEWUSER
    if flags & CLONE_NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sH22x", b"lo", 0)
        (present,) = struct.unpack("16xH22x", fcntl.ioctl(control, SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", present | IFF_UP))


def _restrict_files(read: Sequence[str], write: Sequence[str]) -> None:
    """Landlock: everything is refused but reading ``read`` and everything under ``write``."""
    abi = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        raise OSError(ctypes.get_errno(), "landlock")
    handled = (1 << 13) - 1  # ABI 1
    handled |= (1 << 13) if abi >= 2 else 0  # REFER
    handled |= FS_TRUNCATE if abi >= 3 else 0
    handled |= FS_IOCTL_DEV if abi >= 5 else 0
    # ABI 6: no signals to, and no abstract sockets of, processes outside the cage.
    attributes = struct.pack("QQQ", handled, 0, 3) if abi >= 6 else struct.pack("Q", handled)
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in read:
        _allow(ruleset, path, _READ & handled)
    for path in write:
        _allow(ruleset, path, handled)
    for path in DEVICES:
        _allow(ruleset, path, (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV) & handled)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if _libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(path):
            access &= _ON_FILES
        rule = struct.pack("=Qi", access, fd)
        if _libc.syscall(_ADD_RULE, ruleset, 1, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule")
    finally:
        os.close(fd)


def _drop_capabilities() -> None:
    """Empty the bounding set, so that even root's exec gains nothing; without privilege there is nothing to drop."""
    for capability in range(64 if _LINUX else 0):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break


def _filter_calls() -> None:
    """Install the deny list as a BPF program; a foreign architecture's calls kill the process."""
    denied, arch = _DENIED[_MACHINE], _AUDIT_ARCH[_MACHINE]
    load, equal, any_bit, at_least, back = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, no_such, no_family = (0x00050000 | code for code in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (back, 0, 0, kill), (load, 0, 0, 0)]
    if _MACHINE == "x86_64":
        code += [(at_least, 0, 1, 0x40000000), (back, 0, 0, kill)]  # the x32 calls
    for number in denied.values():
        code += [(equal, 0, 1, number), (back, 0, 0, refuse)]
    code += [(equal, 0, len(_FAMILIES) + 3, _SOCKET[_MACHINE]), (load, 0, 0, 16)]
    code += [(equal, len(_FAMILIES) - i, 0, int(family)) for i, family in enumerate(_FAMILIES)]
    code += [(back, 0, 0, no_family), (back, 0, 0, allow)]
    # clone3's flags lie in memory that a filter cannot read: callers fall back to clone on ENOSYS.
    code += [(equal, 0, 1, _CLONE3), (back, 0, 0, no_such)]
    code += [(equal, 0, 3, _CLONE[_MACHINE]), (load, 0, 0, 16), (any_bit, 0, 1, _NAMESPACES), (back, 0, 0, refuse)]
    code += [(back, 0, 0, allow)]
    program = b"".join(struct.pack("HBBI", *step) for step in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if _libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(filter_), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _prctl(option: int, value: int) -> None:
    if not _LINUX:
        return  # no walls and no death signal there: `Support` says so
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    if sys.argv[1] == "--probe":
        _probe()
    else:
        _main(int(sys.argv[1]))
