"""Secrets in a stream that arrives in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.common.masking import MASK, Masker, masked_lines

KEY = "-----BEGIN KEY-----\r\nMIIEvQIBADANBg\nabc\n  kqhkiG9w0BAQEF  \n-----END KEY-----\n"


def mask(secrets: list[str], *pieces: bytes) -> list[bytes]:
    """Return what the masker gives after each piece, and at the end."""
    masker = Masker(secrets)
    return [*(masker.feed(piece) for piece in pieces), masker.flush()]


def test_secret_is_replaced():
    assert mask(["hunter2"], b"a hunter2 b\nhunter2\n") == [b"a *** b\n***\n", b""]


@pytest.mark.parametrize("cut", range(1, 7))
def test_secret_in_two_pieces_is_replaced(cut):
    assert mask(["hunter2"], b"x" + b"hunter2"[:cut], b"hunter2"[cut:] + b"y") == [b"x", b"***y", b""]


def test_only_the_beginning_of_a_secret_is_held_back():
    assert mask(["hunter2"], b"all here\n", b"not hu", b"man\n", b"hunter") == [
        b"all here\n",
        b"not ",
        b"human\n",
        b"",
        b"hunter",
    ]


def test_longer_secret_with_the_same_beginning_is_replaced():
    assert mask(["abcdef", "abcdefghij"], b"abcdef", b"ghij.", b"abcdef", b"-") == [b"", b"***.", b"", b"***-", b""]


def test_overlapping_secrets_are_replaced_together():
    assert mask(["abcdef", "defghi"], b"_abcde", b"fghi_") == [b"_", b"***_", b""]
    assert mask(["abcdef", "defghi"], b"_abcdef", b"g_") == [b"_***", b"g_", b""]


def test_each_line_of_a_secret_is_replaced():
    assert masked_lines(KEY) == ["-----BEGIN KEY-----", "MIIEvQIBADANBg", "kqhkiG9w0BAQEF", "-----END KEY-----"]
    assert b"".join(mask([KEY], KEY.encode())) == b"***\r\n***\nabc\n  ***  \n***\n"


def test_secret_with_other_characters_than_ascii_is_replaced():
    assert b"".join(mask(["pässwörd"], *(bytes([byte]) for byte in "<pässwörd>".encode()))) == b"<***>"


def test_masker_continues_from_a_state():
    pieces = [b"xab", b"cde", b"fg", b"hi", b"ab"]
    masker, shown = Masker(["abcdef", "efghij"]), b""
    for piece in pieces:
        shown += masker.feed(piece)
        state = masker.state
        assert state is None or state.replace(",", "").isdecimal()
        masker = Masker(["efghij", "abcdef"], state)
    assert shown + masker.flush() == b"x***ghiab"


@given(st.data())
def test_pieces_are_masked_as_the_whole_is(data):
    letters = st.text("ab", min_size=6, max_size=9)
    secrets = data.draw(st.lists(letters, min_size=1, max_size=3))
    text = "".join(data.draw(st.lists(st.one_of(st.sampled_from([*secrets, "\n"]), st.text("abc")), max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[first:last].encode() for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = b"".join(mask(secrets, text.encode()))
    assert b"".join(mask(secrets, *pieces)) == whole
    shown, masker = b"", Masker(secrets)
    for piece in pieces:
        shown += masker.feed(piece)
        masker = Masker(secrets, masker.state)
    assert shown + masker.flush() == whole
    assert not any(secret.encode() in whole for secret in secrets)
    covered = {
        i
        for secret in secrets
        for i in range(len(text))
        if text.startswith(secret, i)
        for i in range(i, i + len(secret))
    }
    assert whole.replace(MASK, b"").decode() == "".join(c for i, c in enumerate(text) if i not in covered)


def test_secret_that_overlaps_itself_is_found_few_times():
    line, count = "a" * 1000, 100_000
    found = list(Masker([line])._secrets_in(b"a" * count))
    assert len(found) <= 2 * count // len(line)
    assert b"".join(mask([line], b"x" + b"a" * count + b"x")) == b"x" + MASK + b"x"
