"""Stop strings and detokenised text, compared with a search in the whole text."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from llamafw import GeneratedToken
from llamafw.engine.detokenizer import Detokenizer
from llamafw.engine.stop_strings import StopStrings

letters = st.text("ab€", max_size=12)
words = st.lists(st.text("ab€", max_size=4), max_size=4)


def oracle(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Return the text before the first complete stop string, and the stop string; None without one."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            word = max(complete, key=len)
            return text[: end - len(word)], word
    return text, None


@given(pieces=st.lists(letters, max_size=8), stops=words)
@example(pieces=["aab"], stops=["aaa", "ab"])
@example(pieces=["ab"], stops=["a", "ab"])
@example(pieces=["aaab"], stops=["aaa€", "ab"])
@example(pieces=["xaba", "b"], stops=["abab"])
def test_text_ends_at_the_first_complete_stop_string(pieces: list[str], stops: list[str]) -> None:
    finder, out, found = StopStrings(stops), "", None
    fed = ""
    for piece in pieces or [""]:
        certain, found = finder.feed(piece)
        fed, out = fed + piece, out + certain
        if found is not None:
            break
        # Exactly the text that may become a stop string is held back.
        held = max((n for stop in stops for n in range(1, len(stop)) if fed.endswith(stop[:n])), default=0)
        assert finder.held == held
        assert out == fed[: len(fed) - held]
    else:
        out += finder.flush()
    assert (out, found) == oracle("".join(pieces), stops)


def test_long_stop_string_is_found_after_many_near_matches() -> None:
    """The time is linear in the length of the text; otherwise this test would take minutes."""
    finder = StopStrings(["a" * 10_000 + "b"])
    out = "".join(finder.feed("a")[0] for _ in range(30_000))
    assert len(out) == 20_000
    assert finder.feed("b") == ("", "a" * 10_000 + "b")


def test_requests_with_the_same_stop_strings_are_independent() -> None:
    one, other = StopStrings(["abc"]), StopStrings(["abc"])
    assert one.feed("ab") == ("", None)
    assert other.feed("c") == ("c", None)
    assert one.feed("c") == ("", "abc")


pieces_of_bytes = st.lists(
    st.one_of(st.binary(max_size=3), st.sampled_from(["€"[:1].encode()[:2], "€".encode()[2:], "❤a".encode(), b"ab"])),
    max_size=10,
)


@given(pieces=pieces_of_bytes, stops=words)
@example(pieces=[b"\xe2\x82"], stops=["�"])
def test_detokenizer_pairs_text_with_its_tokens(pieces: list[bytes], stops: list[str]) -> None:
    text, word = oracle(b"".join(pieces).decode("utf-8", "replace"), stops)
    delivered: list[GeneratedToken] = []
    detokenizer, out, found = Detokenizer(stops), "", None
    for i, piece in enumerate(pieces):
        (certain, tokens), found = detokenizer.feed(GeneratedToken(i, piece))
        out += certain
        delivered += tokens
        if found is not None:
            break
        assert text.startswith(out) or not pieces
        # The tokens that were sent make up the text that was sent.
        whole = b"".join(token.piece for token in delivered).decode("utf-8", "replace")
        assert out.startswith(whole) or "�" in whole
    else:
        (certain, tokens), found = detokenizer.flush()
        out += certain
        delivered += tokens
    if "" in stops and not pieces:
        return  # without text no stop string is searched
    assert (out, found) == (text, word)
    assert [token.id for token in delivered] == list(range(len(delivered)))  # in order, without repetition
    if found is None:
        assert len(delivered) == len(pieces)
    else:
        whole = b"".join(token.piece for token in delivered).decode("utf-8", "replace")
        assert whole.startswith(out) or "�" in out


def test_token_is_released_with_the_last_of_its_text() -> None:
    detokenizer = Detokenizer(["ab"])

    def feed(id: int, piece: bytes) -> tuple[str, list[int], str | None]:
        (text, tokens), word = detokenizer.feed(GeneratedToken(id, piece))
        return text, [token.id for token in tokens], word

    assert feed(0, b"\xe2\x82") == ("", [], None)
    assert feed(1, b"\xac") == ("€", [0, 1], None)
    assert feed(2, b"xa") == ("x", [], None)
    assert feed(3, b"") == ("", [], None)
    assert feed(4, b"ca") == ("ac", [2, 3], None)
    assert feed(5, b"c") == ("ac", [4, 5], None)
    assert feed(6, b"ya") == ("y", [], None)
    assert feed(7, b"b!") == ("", [6], "ab")  # token 6 has text before the stop string, token 7 does not
