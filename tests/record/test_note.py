"""Signed notes and checkpoints against the reference vector (key bytes 00..1f; entries a, b, c)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall.core.errors import Malformed
from firewall.record.merkle import Tree, leaf_hash
from firewall.record.note import Checkpoint, Signer, Verifier, open_note
from firewall.record.tiles import encode_entry, entries_path

SIGNER = Signer("fw.example/audit", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
VKEY = "fw.example/audit+65076e69+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
NOTE = (
    "fw.example/audit\n3\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n\n"
    "— fw.example/audit ZQduabk+OhXsGSBSlC8JUbKoDk16FfiC612O1mSJH+TeQNJVo+136POhI95TM9J6LZxAgxp9gpdDBK0xRcFiDBiCtQ4=\n"
)


def test_the_reference_vector_comes_out_exactly() -> None:
    tree = Tree(leaf_hash(entry) for entry in (b"a", b"b", b"c"))
    assert leaf_hash(b"a").hex() == "022a6979e6dab7aa5ae4c3e5e45f7e977112a7e63593820dbec1ec738a24f93c"
    assert tree.root(2).hex() == "b137985ff484fb600db93107c77b0365c80d78f5b429ded0fd97361d077999eb"
    assert tree.root(3).hex() == "36642e73c2540ab121e3a6bf9545b0a24982cd830eb13d3cd19de3ce6c021ec1"
    assert SIGNER.verifier.vkey() == VKEY
    assert SIGNER.sign(Checkpoint("fw.example/audit", 3, tree.root()).text()) == NOTE
    assert [h.hex() for h in tree.inclusion(1, 3)] == [
        "022a6979e6dab7aa5ae4c3e5e45f7e977112a7e63593820dbec1ec738a24f93c",
        "597fcb31282d34654c200d3418fca5705c648ebf326ec73d8ddef11841f876d8",
    ]
    assert [h.hex() for h in tree.consistency(2, 3)] == [
        "597fcb31282d34654c200d3418fca5705c648ebf326ec73d8ddef11841f876d8"
    ]
    assert b"".join(encode_entry(e) for e in (b"a", b"b", b"c")).hex() == "000161000162000163"
    assert entries_path(0, 3) == "tile/entries/000.p/3"


def test_a_signed_checkpoint_opens_with_its_key_only() -> None:
    known = Verifier.parse(VKEY)
    assert Checkpoint.parse(open_note(NOTE, [known])).size == 3
    stranger = Signer("fw.example/audit", Ed25519PrivateKey.from_private_bytes(b"s" * 32))
    with pytest.raises(Malformed) as caught:
        open_note(NOTE, [stranger.verifier])
    assert caught.value.code == "note_unsigned"
    both = NOTE + stranger.sign("x\n")[3:]
    assert open_note(both, [known]) == open_note(NOTE, [known])
    with pytest.raises(Malformed) as caught:
        open_note(both, [known, stranger.verifier])
    assert caught.value.code == "note_forged"


def test_every_changed_character_of_the_text_is_seen() -> None:
    known = [Verifier.parse(VKEY)]
    for at in range(NOTE.index("\n\n")):
        changed = NOTE[:at] + ("y" if NOTE[at] != "y" else "z") + NOTE[at + 1 :]
        with pytest.raises(Malformed):
            open_note(changed, known)


@pytest.mark.parametrize(
    "note",
    ["", "\n", "text\n", NOTE[:-1], NOTE.replace("— ", "- "), NOTE.replace("\n\n", "\n"), NOTE.replace("3", "\x003")],
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(Malformed):
        open_note(note, [Verifier.parse(VKEY)])


@pytest.mark.parametrize(
    "text",
    [
        "o\n3\n",
        "o\n03\nAAAA\n",
        "o\n-1\n" + "A" * 43 + "=\n",
        "o\n1\nAAAA\n",
        "\n1\n" + "A" * 43 + "=\n",
        "o\n1\n" + "A" * 43 + "=",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "vkey",
    ["", "a+b", VKEY[:-4], VKEY.replace("65076e69", "65076e68"), "a b+65076e69+AQ==", VKEY.replace("+AQ", "+Ag")],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(Malformed):
        Verifier.parse(vkey)


def test_the_private_key_has_no_text_form() -> None:
    assert bytes(range(32)).hex() not in repr(SIGNER) + str(vars(SIGNER))
