"""The node's own keys."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from firewall.core.errors import ConfigFault
from firewall.state.keys import KeyRing, thumbprint


def test_keys_are_made_once_and_found_again(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    first = ring.ec_signing_key("as"), ring.ed25519("audit"), ring.secret("seal")
    again = KeyRing(tmp_path / "keys")
    assert isinstance(first[0].curve, ec.SECP256R1)
    assert thumbprint(again.ec_signing_key("as")) == thumbprint(first[0])
    assert thumbprint(again.ed25519("audit")) == thumbprint(first[1])
    assert again.secret("seal") == first[2]
    assert ring.secret("other") != first[2]
    assert len(first[2]) == 32


def test_directory_and_files_are_private_and_nothing_is_left_aside(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.ec_signing_key("as")
    ring.secret("seal")
    assert stat.S_IMODE(ring.directory.stat().st_mode) == 0o700
    names = sorted(os.listdir(ring.directory))
    assert names == ["ec-as.1", "secret-seal.1"]
    assert {stat.S_IMODE((ring.directory / n).stat().st_mode) for n in names} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    KeyRing(tmp_path / "keys").secret("seal")
    (tmp_path / "keys" / "secret-seal.1").chmod(mode)
    with pytest.raises(ConfigFault) as caught:
        KeyRing(tmp_path / "keys").secret("seal")
    assert caught.value.code == "key_permissions"
    (tmp_path / "keys" / "secret-seal.1").chmod(0o600)
    assert KeyRing(tmp_path / "keys").secret("seal")


def test_an_open_directory_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.directory.chmod(0o750)
    with pytest.raises(ConfigFault) as caught:
        ring.secret("seal")
    assert caught.value.code == "key_permissions"


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * 32)
    elsewhere.chmod(0o600)
    ring = KeyRing(tmp_path / "keys")
    (ring.directory / "secret-seal.1").symlink_to(elsewhere)
    with pytest.raises(ConfigFault):
        ring.secret("seal")


def test_a_damaged_key_is_named_without_its_content(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    for name, content in (("ec-as.1", b"not a key"), ("secret-seal.1", b"short secret")):
        (ring.directory / name).write_bytes(content)
        (ring.directory / name).chmod(0o600)
    for make in (lambda: ring.ec_signing_key("as"), lambda: ring.secret("seal")):
        with pytest.raises(ConfigFault) as caught:
            make()
        assert caught.value.code == "key_damaged"
        assert "not a" not in caught.value.diagnostics()
        assert "short" not in caught.value.diagnostics()


def test_a_key_of_another_kind_under_our_name_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    ring.ed25519("audit")
    os.rename(ring.directory / "ed25519-audit.1", ring.directory / "ec-as.1")
    with pytest.raises(ConfigFault):
        ring.ec_signing_key("as")


def test_rotation_adds_a_generation_and_the_newest_signs(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    old = thumbprint(ring.ec_signing_key("as"))
    assert ring.rotate("ec", "as") == 2
    keys = [thumbprint(k) for k in ring.ec_signing_keys("as")]
    assert len(keys) == 2
    assert keys[1] == old
    with pytest.raises(ConfigFault):
        ring.retire("ec", "as", 2)
    ring.retire("ec", "as", 1)
    assert [thumbprint(k) for k in ring.ec_signing_keys("as")] == keys[:1]


@pytest.mark.parametrize("name", ["", "../as", "A", "a b", "x" * 41])
def test_a_name_cannot_lead_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigFault):
        KeyRing(tmp_path / "keys").secret(name)


def _make(path: str, barrier: Any, out: Any) -> None:
    barrier.wait(20)
    ring = KeyRing(path)
    out.put((thumbprint(ring.ec_signing_key("as")), ring.secret("seal").hex()))


def test_four_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_make, args=(str(tmp_path / "keys"), barrier, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    seen = {out.get(timeout=40) for _ in workers}
    for worker in workers:
        worker.join(20)
    assert len(seen) == 1
