"""Checks of the machine: Python, our own packages, native engines, walls of the kernel, limits."""

from __future__ import annotations

import importlib
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

from firewall.admin.doctor.check import Check, Examination, Patient

ROOMS: Final = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")
FILES: Final = 4096
MIB: Final = 1024 * 1024


def python(_patient: Patient) -> Iterator[Check]:
    """Python 3.11 or newer, on Linux or macOS."""
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036  the question is about the machine, not about this file
        yield Check("python", "fail", f"Python {version}", "install Python 3.11 or newer")
    else:
        yield Check("python", "ok", f"Python {version}, {platform.system()} {platform.machine()}")


def rooms(_patient: Patient) -> Iterator[Check]:
    """Every package of ours is our own: other distributions publish the same import names."""
    home = Path(importlib.import_module("firewall").__path__[0]).resolve().parent
    owners = packages_distributions()
    for name in ROOMS:
        places = {Path(p).resolve().parent for p in importlib.import_module(name).__path__}
        foreign = sorted(set(owners.get(name, ())) - {"bartizan"})
        if foreign or places != {home}:
            yield Check(
                "rooms",
                "fail",
                f"the package {name} is not (only) ours: {', '.join(foreign) or 'it is loaded from elsewhere'}",
                f"uninstall {', '.join(foreign) or 'the other one'}, or give Bartizan an environment of its own",
            )
            return
    yield Check("rooms", "ok", "all four packages are our own")


def engines(_patient: Patient) -> Iterator[Check]:
    """The native engines load and answer."""
    for module, what in (
        ("hyperscan", "pattern scanner"),
        ("re2", "pattern confirmation"),
        ("regorus", "policy engine"),
    ):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            yield Check(
                "engines",
                "fail",
                f"{what} ({module}) does not load: {type(error).__name__}",
                "reinstall with `make setup`; it needs glibc 2.34 or newer (no musl)",
            )
            return
    yield Check("engines", "ok", "pattern scanner, confirmation and policy engine load")


def walls(patient: Patient) -> Iterator[Check]:
    """What the kernel gives to cage local programs (ISO-02)."""
    from mcp_gateway import sandbox  # it loads libc

    support = sandbox.detect()
    local = sorted(name for name, given in patient.config.mcp.items() if given.command)
    if support.complete:
        yield Check("sandbox", "ok", f"Landlock {support.landlock}, seccomp and network namespaces")
        return
    missing = ", ".join(support.missing)
    if not local:
        yield Check("sandbox", "ok", f"no local programs to cage; this kernel lacks: {missing}")
        return
    text = f"local programs ({', '.join(local)}) run without: {missing}"
    if "network namespace" in support.missing:
        text += "; they reach out by themselves, past our egress rules"
    if "seccomp" in support.missing:
        text += "; without seccomp they do not start unless unsandboxed: true is written down"
    yield Check(
        "sandbox",
        "warn",
        text,
        "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or the AppArmor rule), "
        "or run these servers elsewhere and reach them by URL",
    )


def limits(_patient: Patient) -> Iterator[Check]:
    """Open files: one per connection, and more for the stores."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        yield Check("files", "warn", f"at most {soft} open files", f"ulimit -n {min(hard, 65536)}, or LimitNOFILE=")
    else:
        yield Check("files", "ok", f"{soft} open files allowed")


def disk(patient: Patient) -> Iterator[Check]:
    """Room for records: an audit log that cannot be written stops everything."""
    for name, path in (("state", patient.config.state), ("audit", patient.config.audit_dir)):
        there = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(there).free
        if free < 200 * MIB:
            yield Check("disk", "fail", f"{name}: {free // MIB} MiB left", "free space, or move the directory")
        elif free < 2048 * MIB:
            yield Check("disk", "warn", f"{name}: {free // MIB} MiB left", "watch it: without records nothing passes")
        else:
            yield Check("disk", "ok", f"{name}: {free // (1024 * MIB)} GiB left")


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("python", python),
    ("rooms", rooms),
    ("engines", engines),
    ("sandbox", walls),
    ("files", limits),
    ("disk", disk),
)
