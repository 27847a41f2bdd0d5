"""What is committed: hashed requirements without an index, no path of one machine, documented targets."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

GROUPS = ["run", "demo", "dev", "conformance", "build"]
PINNED = re.compile(r"^[a-z0-9][a-z0-9._-]*(\[[a-z0-9,._-]+\])?==[^ ;]+( ; [^\\]+)? \\$")


def tracked(root: Path) -> list[Path]:
    """Return the files that git tracks; skips where this is not a clone."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone: the list of committed files is unknown")
    paths = [root / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("group", GROUPS)
def test_each_requirement_is_pinned_and_hashed(group: str, root: Path) -> None:
    text = (root / "requirements" / f"{group}.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert blocks
    for block in blocks:
        first, *hashes = block.splitlines()
        assert PINNED.match(first), first
        assert hashes, first
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), first


@pytest.mark.parametrize("group", GROUPS)
def test_requirements_name_no_index_and_no_file(group: str, root: Path) -> None:
    text = (root / "requirements" / f"{group}.txt").read_text(encoding="utf-8")
    for word in ("://", "--index", "--extra-index", "--find-links", "-i ", "-e ", " @ ", "#"):
        assert word not in text, word


def test_groups_agree_on_every_version(root: Path) -> None:
    """One environment holds all groups; a version may differ by Python, not by group."""
    seen: dict[str, set[tuple[str, ...]]] = {}
    for group in GROUPS:
        lines = (root / "requirements" / f"{group}.txt").read_text(encoding="utf-8").splitlines()
        pins = [line.rstrip(" \\") for line in lines if "==" in line and line[0] != " "]
        for name in {re.split(r"[\[=]", pin)[0] for pin in pins}:
            versions = sorted({re.sub(r"^[^=]*==|;.*", "", pin) for pin in pins if re.split(r"[\[=]", pin)[0] == name})
            seen.setdefault(name, set()).add(tuple(versions))
    assert {name: versions for name, versions in seen.items() if len(versions) > 1} == {}


def test_requirements_cover_what_pyproject_asks_for(root: Path) -> None:
    """A changed pin without `make lock` fails here."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {"run": project["project"]["dependencies"], **project["dependency-groups"]}
    del wanted["later"]  # resolved with the others, installed by nobody
    for group, requirements in wanted.items():
        locked = (root / "requirements" / f"{group}.txt").read_text(encoding="utf-8")
        for requirement in requirements:
            match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:==([^ ;]+))?", requirement)
            assert match
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            assert re.search(rf"^{re.escape(name)}=={re.escape(match[2] or '')}", locked, re.MULTILINE), requirement


def test_no_lock_with_resolved_addresses_is_committed(root: Path) -> None:
    names = {path.name for path in tracked(root)}
    assert names.isdisjoint({"uv.lock", "pylock.toml", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"})


def test_no_path_of_this_machine_is_committed(root: Path) -> None:
    home = re.escape(str(Path.home()))
    here = re.escape(str(root))
    pattern = re.compile(rf"({here}|{home}(?=/\.))".encode())
    if str(root) == "/":
        pytest.skip("the repository lies at the root of the file system")
    found = [str(path.relative_to(root)) for path in tracked(root) if pattern.search(path.read_bytes())]
    assert found == []


def test_no_package_index_is_named_by_a_committed_file(root: Path) -> None:
    """Clients find their registry by their own configuration; a named host breaks builds behind a mirror."""
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs", "org"))]
    hosts.append(".".join(("proxy", "golang", "org")))
    pattern = re.compile("|".join(map(re.escape, hosts)).encode())
    found = [str(path.relative_to(root)) for path in tracked(root) if pattern.search(path.read_bytes())]
    assert found == []


def test_make_help_covers_every_target(root: Path) -> None:
    text = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))
    documented = set(re.findall(r"^([a-z][a-z-]*):.*## \S", text, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    assert targets == documented == set(phony[1].split())


def test_ci_runs_the_tests_with_the_command_of_the_readme(root: Path) -> None:
    assert "make test" in (root / "README.md").read_text(encoding="utf-8")
    assert "make test" in (root / ".ci" / "run").read_text(encoding="utf-8")


def test_every_decision_is_listed_in_the_index(root: Path) -> None:
    folder = root / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    decisions = [path.name for path in sorted(folder.glob("[0-9]*.md"))]
    assert decisions
    assert [name for name in decisions if f"]({name})" not in index] == []


LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def test_relative_links_in_documents_lead_somewhere(root: Path) -> None:
    broken = []
    for path in tracked(root):
        if path.suffix == ".md":
            for target in LINK.findall(path.read_text(encoding="utf-8")):
                if not (path.parent / target).exists():
                    broken.append(f"{path.relative_to(root)}: {target}")
    assert broken == []
