"""The documents' links lead somewhere, and every exchange that they show is one hop from the page on sign-in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """Return what a heading is called in an address, as the hosts of such documents make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def links(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor that each link of a document leads to, outside of blocks of code."""
    for to in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", path.read_text(encoding="utf-8"))):
        if "://" not in to:
            name, _, part = to.partition("#")
            yield ((path.parent / name).resolve() if name else path.resolve()), part


def dead(paths: list[Path]) -> list[str]:
    """Return the links that lead nowhere."""
    found = []
    for path in paths:
        for target, part in links(path):
            text = target.read_text(encoding="utf-8") if target.is_file() and part else ""
            known = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)}
            if not target.exists() or (part and part not in known):
                found.append(f"{path.name}: {target.name}#{part}")
    return found


def test_every_link_of_the_documents_leads_to_a_file_and_a_heading_of_it(root: Path) -> None:
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    assert len(pages) > 60
    assert dead(pages) == []


def test_a_link_to_a_file_or_heading_that_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One `two`\n[a](b.md) [b](#one-two) [c](#three) [d](https://x.example/y)\n```\n[e](f.md)\n```\n")
    assert dead([page]) == ["a.md: b.md#", "a.md: a.md#three"]


def test_every_page_with_exact_requests_is_one_hop_from_the_page_on_sign_in(root: Path) -> None:
    docs = root / "docs"
    shown = {path for path in docs.glob("*.md") if "```http\n" in path.read_text(encoding="utf-8")}
    reached = {target for target, _ in links(docs / "oauth.md")}
    assert len(shown) >= 8
    assert shown - reached == {docs / "oauth.md"}
