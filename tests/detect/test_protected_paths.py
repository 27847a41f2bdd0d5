"""A path to keys is seen at any depth under a name that means a path; the list is the policy's own."""

from pathlib import Path

import pytest
import yaml

from firewall.core.protected_paths import PATH_ARGUMENTS, PROTECTED_NAMES, PROTECTED_PREFIXES
from tests.detect.conftest import Scan

DATA = yaml.safe_load((Path(__file__).parents[2] / "policies/config/data.yaml").read_text())


def deep(value: object, levels: int) -> object:
    for n in range(levels):
        value = {"options": value} if n % 2 else [value]
    return value


def rules(found: list[object]) -> list[str]:
    return [f.rule for f in found]  # type: ignore[attr-defined]


def test_inspection_and_policy_have_one_list() -> None:
    assert sorted(PATH_ARGUMENTS) == sorted(DATA["path_arguments"])
    assert sorted(PROTECTED_NAMES) == sorted(DATA["protected_names"])
    assert sorted(PROTECTED_PREFIXES) == sorted(DATA["protected_prefixes"])


@pytest.mark.parametrize("levels", [0, 1, 5, 40])
@pytest.mark.parametrize(
    "path",
    [
        *(f"/home/a{n}" for n in PROTECTED_NAMES),
        *(f"{p}x" for p in PROTECTED_PREFIXES),
        ".SSH/id",
        "C:\\u\\.ssh\\id",
        ".env",
    ],
)
def test_a_protected_path_is_found_at_any_depth(levels: int, path: str, call: Scan) -> None:
    assert "path.protected" in rules(call({"edit": deep({"path": path}, levels)}))
    assert "path.protected" in rules(call({"edit": deep({"paths": [["a.txt", path]]}, levels)}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"edit": {"text": "keep /home/a/.ssh/config private"}},
        {"edit": {"path": "/srv/project/.envoy/a"}},
        {"edit": {"path": "docs/proc/a"}},
        {"edit": {"path": "/srv/dev/root/a"}},
        {".ssh": {"name": "x"}},
    ],
)
def test_other_texts_and_names_are_none(arguments: dict[str, object], call: Scan) -> None:
    assert "path.protected" not in rules(call(arguments))


@pytest.mark.parametrize("prefix", PROTECTED_PREFIXES)
@pytest.mark.parametrize(
    "start",
    [
        "file://",
        "file:",
        "file://localhost",
        "file://any",
        "file:///.",
        "fs://",
        "notes:",
        "/",
        "/.",
        "FILE://",
        "bartizan+fs:file://",
    ],
)
def test_a_protected_place_is_found_in_every_spelling_of_its_address(start: str, prefix: str, call: Scan) -> None:
    """No policy rule reads these again: what inspection overlooks is open."""
    assert "path.protected" in rules(call({"uri": f"{start}{prefix}x"}))
    assert "path.protected" in rules(call({"uri": f"{start}{prefix.replace('/', '%2F')}x"}))
    assert "path.protected" in rules(call({"path": f"{start}{prefix[0]}{prefix[1:].replace('/', '/.//')}x"}))


@pytest.mark.parametrize("path", ["/home/a/.ssh%2Fid_rsa", "file:///home/a%2F.ssh/id", "/srv/a/.git//hooks/x"])
def test_a_protected_name_is_found_between_other_separators(path: str, call: Scan) -> None:
    assert "path.protected" in rules(call({"path": path}))


@pytest.mark.parametrize(
    "value",
    [
        "https://a.example/root/x",
        "https://dev/x",
        "s3://root/x",
        "s3://bucket/dev/x",
        "C:/dev/x",
        "file:///srv/dev/x",
        "/development/x",
        "git+ssh://host/proc/x",
        "notes\n/proc/x",
    ],
)
def test_other_places_are_none(value: str, call: Scan) -> None:
    assert "path.protected" not in rules(call({"uri": value, "source": value}))
