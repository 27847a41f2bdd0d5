"""The lock file: the same approvals always give the same bytes; one odd entry refuses all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firewall.core.errors import ConfigFault
from firewall.enforce.lock import LOCK_BYTES, Locked, parse, read, render

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ENTRIES = [
    (("git", "tool", "status"), Locked(A, "Status", "ann", "2026-11-23T05:00:00Z")),
    (("git", "prompt", "review\u202e"), Locked(B, "Review \u0430", "first-contact", "2026-11-23T05:00:00Z")),
    (("fetch", "set", "tool"), Locked(B)),
]


def test_what_is_written_is_read_and_order_says_nothing() -> None:
    text = render(ENTRIES)
    assert text == render(list(reversed(ENTRIES)))
    assert text.isascii()
    assert "review\\u202e" in text
    lock = parse(text.encode())
    assert lock.entries == dict(ENTRIES)
    assert lock.digest("git", "tool", "status") == A
    assert lock.digest("git", "tool", "other") == ""


def changed(**entry: object) -> bytes:
    document = json.loads(render(ENTRIES[:1]))
    document["upstreams"]["git"]["tool"]["status"].update(entry)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b'{"lock": 2, "upstreams": {}}', b'{"lock": 1, "upstreams": []}', b'{"lock": 1, "upstreams": {"git": []}}',
        b'{"lock": 1, "upstreams": {}, "more": 1}', b'{"lock": 1, "lock": 1, "upstreams": {}}', changed(digest="sha256:zz"),
        changed(digest=""), changed(digest="md5:" + "a" * 64), changed(title=1), changed(note="x"),
        b" " * (LOCK_BYTES + 1),
    ],
)  # fmt: skip
def test_a_file_with_anything_odd_in_it_is_no_lock(data: bytes) -> None:
    with pytest.raises(ConfigFault) as caught:
        parse(data)
    assert caught.value.code == "lock_invalid"


def test_a_link_a_missing_file_and_one_that_everybody_may_write_are_refused(tmp_path: Path) -> None:
    file, link = tmp_path / "bartizan.lock", tmp_path / "link"
    with pytest.raises(ConfigFault, match="lock_missing"):
        read(file)
    file.write_text(render(ENTRIES))
    file.chmod(0o644)
    assert read(file).entries == dict(ENTRIES)
    link.symlink_to(file)
    with pytest.raises(ConfigFault, match="lock_missing"):
        read(link)
    file.chmod(0o666)
    with pytest.raises(ConfigFault, match="lock_writable"):
        read(file)
