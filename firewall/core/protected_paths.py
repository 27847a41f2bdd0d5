"""Paths that lead to keys or start-up files, and the names of arguments that hold paths (all lower case).

The built-in lists, of which `policies/config/data.yaml` carries the same ones: inspection finds these at any
depth of a message. Where a policy's own lists are equal, its rules need not read the arguments again; a test
holds them equal as shipped.
"""

from __future__ import annotations

from typing import Final

PATH_ARGUMENTS: Final = frozenset(
    "path paths file files file_path filename filepath directory dir source destination target uri root repo_path".split()
)
PROTECTED_PREFIXES: Final = ("/proc/", "/sys/", "/dev/", "/root/", "/etc/shadow", "/etc/sudoers", "/etc/ssh/")
# Begins with /. and ends with /, and stands for a file of that name as well.
PROTECTED_NAMES: Final = tuple(
    f"/{name}/"
    for name in (
        ".ssh .aws .gnupg .kube .docker .git/hooks .github/workflows .vscode .cursor .netrc .npmrc .pypirc .env .bashrc"
        " .profile"
    ).split()
)
