"""What stands across two pieces of an artifact is seen at the piece that completes it."""

import pytest

from a2a_gateway.chunks import ARTIFACTS, Chunks
from a2a_gateway.message import Event
from firewall.core.errors import Malformed
from firewall.core.finding import Finding


def words(body, word="secret"):
    """A scanner that looks for one word."""
    at = body["text"].find(word)
    span = (at, at + len(word))
    return [] if at < 0 else [Finding("SCAN-04", "test.word", "secret", 90, "/text", "test", span=span)]


def piece(text, *, name="a", append=True, last=False):
    parts = [{"text": t} for t in ([text] if isinstance(text, str) else text)]
    return Event(
        "artifactUpdate",
        {"artifact": {"artifactId": name, "parts": parts}, "append": append, **({"lastChunk": True} if last else {})},
    )


def test_a_word_inside_one_piece_is_the_guards_own_to_find():
    assert Chunks(words).feed(piece("a secret", append=False)) == []


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_word_cut_anywhere_is_found_at_its_second_piece(cut):
    chunks = Chunks(words)
    assert chunks.feed(piece("x " + "secret"[:cut], append=False)) == []
    (found,) = chunks.feed(piece("secret"[cut:] + " y"))
    assert (found.pointer, found.span) == ("/result/artifactUpdate/artifact/parts/0/text", None)


def test_without_the_machine_no_single_piece_shows_the_word():
    assert words({"text": "sec"}) == words({"text": "ret"}) == []


def test_pieces_of_two_artifacts_are_not_one_text_and_a_new_artifact_begins_anew():
    chunks = Chunks(words)
    chunks.feed(piece("sec", append=False))
    assert chunks.feed(piece("ret", name="b", append=False)) == []
    assert chunks.feed(piece("ret", append=False)) == []


def test_parts_of_one_piece_continue_each_other():
    chunks = Chunks(words)
    chunks.feed(piece("se", append=False))
    (found,) = chunks.feed(piece(["c", "ret"]))
    assert found.pointer.endswith("/1/text")


def test_a_finding_that_lies_wholly_in_earlier_text_is_not_told_again():
    chunks = Chunks(words)
    chunks.feed(piece("a secret", append=False))
    assert chunks.feed(piece(" and more")) == []


def test_a_closed_artifact_is_forgotten_and_too_many_open_ones_end_the_stream():
    chunks = Chunks(words)
    for i in range(ARTIFACTS * 2):
        chunks.feed(piece("x", name=str(i), append=False, last=True))
    for i in range(ARTIFACTS):
        chunks.feed(piece("x", name=str(i), append=False))
    with pytest.raises(Malformed):
        chunks.feed(piece("x", name="more", append=False))


def placeless(body, category="secret", rule="test.word"):
    """A scanner that sees a word in a disguise, so that it has no place in the text."""
    found = Finding("SCAN-04", rule, category, 90, "/text", "test", span=None)
    return [found] if "secret" in body["text"].replace("-", "") else []


def test_a_disguised_word_across_a_seam_ends_the_stream():
    chunks = Chunks(placeless)
    chunks.feed(piece("x s-e-c", append=False))
    with pytest.raises(Malformed, match="agent_response"):
        chunks.feed(piece("-r-e-t"))


def test_an_overflow_that_only_the_seam_shows_ends_the_stream():
    def scan(body):
        return [Finding("SCAN-01", "scan.overflow", "hygiene", 100, "", "test")] if len(body["text"]) > 15 else []

    chunks = Chunks(scan)
    chunks.feed(piece("x" * 10, append=False))
    with pytest.raises(Malformed, match="agent_response"):
        chunks.feed(piece("x" * 10))


def test_a_suspicion_across_a_seam_is_told_and_what_one_side_shows_is_not():
    chunks = Chunks(lambda body: placeless(body, "injection"))
    chunks.feed(piece("s-e-c", append=False))
    (found,) = chunks.feed(piece("-r-e-t"))
    assert (found.category, found.span) == ("injection", None)
    both = Chunks(placeless)
    both.feed(piece("s-e-c-r-e-t", append=False))
    assert both.feed(piece(" and more")) == []
