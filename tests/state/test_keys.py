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
from firewall.state import unlock
from firewall.state.keys import KeyRing, thumbprint
from firewall.state.unlock import is_sealed, secret_places, unlock_secret


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


# -- sealed at rest (OP-04) --------------------------------------------------------------------------------

UNLOCK = b"u" * 32


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_op_04_with_a_secret_no_key_lies_on_the_disk_in_the_open(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", unlock=UNLOCK)
    signing, sealing = ring.ec_signing_key("as"), ring.secret("seal")
    ring.ed25519("audit")
    assert all(b"PRIVATE" not in data and sealing not in data for data in held(ring.directory).values())
    again = KeyRing(tmp_path / "keys", unlock=UNLOCK)
    assert thumbprint(again.ec_signing_key("as")) == thumbprint(signing)
    assert thumbprint(again.ec_key("as", 1)) == thumbprint(signing)
    assert again.secret("seal") == sealing


@pytest.mark.parametrize("unlock", [None, b"v" * 32])
def test_op_04_a_sealed_key_opens_with_its_own_secret_alone(tmp_path: Path, unlock: bytes | None) -> None:
    KeyRing(tmp_path / "keys", unlock=UNLOCK).ec_signing_key("as")
    before = held(tmp_path / "keys")
    with pytest.raises(ConfigFault) as caught:
        KeyRing(tmp_path / "keys", unlock=unlock).ec_signing_key("as")
    assert caught.value.code == "key_locked"
    assert "BARTIZAN_UNLOCK_FILE" in caught.value.fix
    assert held(tmp_path / "keys") == before


def test_op_04_a_sealed_key_under_another_name_does_not_open(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys", unlock=UNLOCK)
    ring.secret("seal")
    (ring.directory / "secret-seal.1").rename(ring.directory / "secret-other.1")
    with pytest.raises(ConfigFault):
        ring.secret("other")


def test_a_plain_key_is_sealed_when_it_is_next_read(tmp_path: Path) -> None:
    plain = KeyRing(tmp_path / "keys")
    key, secret = plain.ec_signing_key("as"), plain.secret("seal")
    assert b"PRIVATE" in held(plain.directory)["ec-as.1"]
    ring = KeyRing(tmp_path / "keys", unlock=UNLOCK)
    assert (thumbprint(ring.ec_signing_key("as")), ring.secret("seal")) == (thumbprint(key), secret)
    found = held(ring.directory)
    assert sorted(found) == ["ec-as.1", "secret-seal.1"]
    assert all(b"PRIVATE" not in data and secret not in data for data in found.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in ring.directory.iterdir()} == {0o600}


def test_op_04_what_nobody_reads_is_sealed_at_the_start_too(tmp_path: Path) -> None:
    plain = KeyRing(tmp_path / "keys")
    plain.secret("of-something-that-is-off")
    plain.ec_signing_key("as")
    plain.rotate("ec", "as")
    (tmp_path / "keys" / "note.txt").write_text("not a key")
    KeyRing(tmp_path / "keys", unlock=UNLOCK).seal_all()
    found = held(tmp_path / "keys")
    assert found.pop("note.txt") == b"not a key"
    assert len(found) == 3
    assert all(is_sealed(data) for data in found.values())


def test_op_04_under_another_secret_nothing_is_sealed_beside_what_does_not_open(tmp_path: Path) -> None:
    KeyRing(tmp_path / "keys", unlock=UNLOCK).secret("seal")
    KeyRing(tmp_path / "keys").ec_signing_key("as")
    before = held(tmp_path / "keys")
    with pytest.raises(ConfigFault, match="key_locked"):
        KeyRing(tmp_path / "keys", unlock=b"v" * 32).seal_all()
    assert held(tmp_path / "keys") == before


def test_the_secret_comes_from_a_file_or_from_a_credential_of_systemd(tmp_path: Path) -> None:
    file = tmp_path / "unlock"
    file.write_bytes(UNLOCK + b"\n")
    file.chmod(0o400)
    keys = tmp_path / "state" / "keys"
    assert unlock_secret({}, keys) is None
    assert unlock_secret({"BARTIZAN_UNLOCK_FILE": str(file)}, keys) == UNLOCK
    assert unlock_secret({"CREDENTIALS_DIRECTORY": str(tmp_path)}, keys) is None
    file.rename(tmp_path / "bartizan-unlock")
    assert unlock_secret({"CREDENTIALS_DIRECTORY": str(tmp_path)}, keys) == UNLOCK


@pytest.mark.parametrize(("data", "mode"), [(UNLOCK, 0o444), (UNLOCK, 0o420), (b"short", 0o400), (b"x" * 5000, 0o400)])
def test_op_03_a_secret_that_others_read_or_that_is_none_stops_the_start(
    tmp_path: Path, data: bytes, mode: int
) -> None:
    file = tmp_path / "unlock"
    file.write_bytes(data)
    file.chmod(mode)
    with pytest.raises(ConfigFault) as caught:
        unlock_secret({"BARTIZAN_UNLOCK_FILE": str(file)}, tmp_path / "state" / "keys")
    assert caught.value.code == "key_unlock"
    assert caught.value.fix
    with pytest.raises(ConfigFault):
        unlock_secret({"BARTIZAN_UNLOCK_FILE": str(tmp_path / "none")}, tmp_path / "state" / "keys")


# -- the account's own secret (OP-04, where nobody named another) ---------------------------------------------


def test_op_04_a_node_seals_its_keys_under_a_secret_of_its_account_that_it_makes(tmp_path: Path) -> None:
    account = {"HOME": str(tmp_path / "home")}
    file = tmp_path / "home" / ".config" / "bartizan" / "unlock"
    keys = tmp_path / "state" / "keys"
    assert unlock_secret(account, keys) is None
    assert not file.exists(), "looking makes nothing"
    made = unlock_secret(account, keys, make=True)
    assert made is not None
    assert len(made) >= 64
    assert unlock_secret(account, keys, make=True) == unlock_secret(account, keys) == made
    assert unlock_secret(account, tmp_path / "other" / "keys", make=True) == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["unlock"]
    another = unlock_secret({"HOME": "/none", "XDG_CONFIG_HOME": str(tmp_path / "config")}, keys, make=True)
    assert another not in (None, made)
    assert secret_places(account) == (str(file.parent), str(file))


def test_op_04_a_secret_that_is_gone_is_not_replaced_by_one_that_opens_nothing(tmp_path: Path) -> None:
    account = {"HOME": str(tmp_path / "home")}
    keys = tmp_path / "state" / "keys"
    KeyRing(keys, unlock=unlock_secret(account, keys, make=True)).secret("seal")
    (tmp_path / "home" / ".config" / "bartizan" / "unlock").unlink()
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(account, keys, make=True)
    assert caught.value.code == "key_locked"
    assert "BARTIZAN_UNLOCK_FILE" in caught.value.fix
    assert not list((tmp_path / "home" / ".config" / "bartizan").iterdir())


@pytest.mark.parametrize("way", ["named", "own", "linked"])
def test_op_04_a_secret_beside_what_it_seals_is_refused(tmp_path: Path, way: str) -> None:
    state = tmp_path / "state"
    (state / "keys").mkdir(mode=0o700, parents=True)
    inside = state / "unlock"
    inside.write_bytes(UNLOCK)
    inside.chmod(0o400)
    (tmp_path / "link").symlink_to(inside)
    environ = {
        "named": {"BARTIZAN_UNLOCK_FILE": str(inside)},
        "linked": {"BARTIZAN_UNLOCK_FILE": str(tmp_path / "link")},
        "own": {"HOME": str(state)},
    }[way]
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(environ, state / "keys", make=True)
    assert caught.value.code == "key_unlock"
    assert sorted(path.name for path in state.iterdir()) == ["keys", "unlock"]


def test_op_04_an_own_secret_that_others_could_have_put_there_is_not_taken(tmp_path: Path) -> None:
    account, keys = {"HOME": str(tmp_path / "home")}, tmp_path / "state" / "keys"
    folder = tmp_path / "home" / ".config" / "bartizan"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(account, keys, make=True)
    assert caught.value.code == "key_unlock"
    folder.chmod(0o700)
    assert unlock_secret(account, keys, make=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
@pytest.mark.parametrize("which", ["unlock", "."])
def test_op_04_an_own_secret_of_another_account_is_not_taken(tmp_path: Path, which: str) -> None:
    account, keys = {"HOME": str(tmp_path / "home")}, tmp_path / "state" / "keys"
    assert unlock_secret(account, keys, make=True)
    os.chown(tmp_path / "home" / ".config" / "bartizan" / which, 65534, 65534)
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(account, keys, make=True)
    assert caught.value.code == "key_unlock"


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "directory", "link that leads nowhere"])
def test_op_04_what_is_no_file_is_no_secret_and_holds_nothing_up(tmp_path: Path, kind: str, own: bool) -> None:
    file = tmp_path / "home" / ".config" / "bartizan" / "unlock"
    file.parent.mkdir(mode=0o700, parents=True)
    if kind == "pipe":
        os.mkfifo(file, 0o400)
    elif kind == "directory":
        file.mkdir(mode=0o500)
    else:
        file.symlink_to(tmp_path / "none")
    environ = {"HOME": str(tmp_path / "home")} if own else {"BARTIZAN_UNLOCK_FILE": str(file)}
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(environ, tmp_path / "state" / "keys", make=True)
    assert caught.value.code == "key_unlock"
    assert [path.name for path in file.parent.iterdir()] == ["unlock"]


def test_op_04_a_place_that_cannot_be_looked_at_is_a_fault_of_ours_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as caught:
        unlock_secret({"HOME": "/" + "x" * 300}, tmp_path / "state" / "keys")
    assert caught.value.code == "key_unlock"


def test_op_04_the_place_where_a_link_leads_is_kept_from_programs_too(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "home" / ".config" / "bartizan", tmp_path / "elsewhere"
    folder.mkdir(mode=0o700, parents=True)
    elsewhere.write_bytes(UNLOCK)
    elsewhere.chmod(0o400)
    (folder / "unlock").symlink_to(elsewhere)
    account = {"HOME": str(tmp_path / "home")}
    assert unlock_secret(account, tmp_path / "state" / "keys") == UNLOCK
    assert set(secret_places(account)) == {str(folder), str(elsewhere)}


def test_op_04_workers_that_start_together_take_the_secret_that_the_first_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, keys = {"HOME": str(tmp_path / "home")}, tmp_path / "state" / "keys"
    holds_sealed, made = unlock._holds_sealed, list[bytes | None]()

    def meanwhile(place: Path) -> bool:
        """Another worker makes the secret and seals a key between our first look and our second."""
        monkeypatch.setattr(unlock, "_holds_sealed", holds_sealed)
        made.append(unlock_secret(account, keys, make=True))
        KeyRing(keys, unlock=made[0]).secret("seal")
        return holds_sealed(place)

    monkeypatch.setattr(unlock, "_holds_sealed", meanwhile)
    assert [unlock_secret(account, keys, make=True)] == made


@pytest.mark.parametrize("environ", [{}, {"HOME": "relative"}, {"HOME": "/proc/none"}])
def test_op_04_an_account_without_a_place_for_a_secret_is_told_to_name_one(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(ConfigFault) as caught:
        unlock_secret(environ, tmp_path / "state" / "keys", make=True)
    assert caught.value.code == "key_unlock"
    assert "BARTIZAN_UNLOCK_FILE=" in caught.value.fix


def own_secret(home: str, keys: str, out: object) -> None:
    out.put(unlock_secret({"HOME": home}, Path(keys), make=True))  # type: ignore[attr-defined]


def test_nodes_that_start_together_end_up_with_one_secret(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    given = (str(tmp_path / "home"), str(tmp_path / "state" / "keys"), out)
    nodes = [context.Process(target=own_secret, args=given) for _ in range(6)]
    for node in nodes:
        node.start()
    seen = {out.get(timeout=40) for _ in nodes}
    for node in nodes:
        node.join(20)
    assert len(seen) == 1
