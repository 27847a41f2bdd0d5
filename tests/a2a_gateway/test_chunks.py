"""What stands across two pieces of an artifact is seen at the piece that completes it."""

import pytest

from a2a_gateway.chunks import ARTIFACTS, Chunks
from a2a_gateway.message import Event
from firewall.core.errors import Malformed
from firewall.core.finding import Finding


class Words:
    """A ScanStream that looks for one word in the joined text."""

    def __init__(self, word="secret"):
        self.word, self.text, self.told = word, "", 0

    def feed(self, text):
        self.text += text
        out = []
        while (at := self.text.find(self.word, self.told)) >= 0:
            self.told = at + len(self.word)
            out.append(Finding("SCAN-04", "test.word", "secret", 90, "", "test", span=(at, self.told)))
        return out

    def safe(self):
        return len(self.text)

    def close(self):
        return []


def piece(text, *, name="a", append=True, last=False):
    parts = [{"text": t} for t in ([text] if isinstance(text, str) else text)]
    return Event(
        "artifactUpdate",
        {"artifact": {"artifactId": name, "parts": parts}, "append": append, **({"lastChunk": True} if last else {})},
    )


def test_a_word_inside_one_piece_is_the_guards_own_to_find():
    assert Chunks(Words).feed(piece("a secret", append=False)) == []


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_word_cut_anywhere_is_found_at_its_second_piece(cut):
    chunks = Chunks(Words)
    assert chunks.feed(piece("x " + "secret"[:cut], append=False)) == []
    (found,) = chunks.feed(piece("secret"[cut:] + " y"))
    assert (found.pointer, found.span) == ("/result/artifactUpdate/artifact/parts/0/text", None)


def test_without_the_machine_no_single_piece_shows_the_word():
    assert Words().feed("sec") == Words().feed("ret") == []


def test_pieces_of_two_artifacts_are_not_one_text_and_a_new_artifact_begins_anew():
    chunks = Chunks(Words)
    chunks.feed(piece("sec", append=False))
    assert chunks.feed(piece("ret", name="b", append=False)) == []
    assert chunks.feed(piece("ret", append=False)) == []


def test_parts_of_one_piece_continue_each_other():
    chunks = Chunks(Words)
    chunks.feed(piece("se", append=False))
    (found,) = chunks.feed(piece(["c", "ret"]))
    assert found.pointer.endswith("/1/text")


def test_a_closed_artifact_is_forgotten_and_too_many_open_ones_end_the_stream():
    chunks = Chunks(Words)
    for i in range(ARTIFACTS * 2):
        chunks.feed(piece("x", name=str(i), append=False, last=True))
    for i in range(ARTIFACTS):
        chunks.feed(piece("x", name=str(i), append=False))
    with pytest.raises(Malformed):
        chunks.feed(piece("x", name="more", append=False))
