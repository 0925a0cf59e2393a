"""An object's kind is told from its first bytes; its name is only a guess."""

import io

import pytest
from PIL import Image

from app.common.media import HEAD_BYTES, Kind, guess_from_name, sniff


def head(format_name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, format_name)
    return buffer.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"])
def test_pictures_are_told_from_their_first_bytes(format_name: str) -> None:
    assert sniff(head(format_name)) is Kind.IMAGE


@pytest.mark.parametrize(
    ("first_bytes", "kind"),
    [
        (b"", Kind.EMPTY),
        (b"hello", Kind.UNKNOWN),
        (b"%PDF-1.7", Kind.UNKNOWN),
        (b"BM, a text that begins like a bitmap", Kind.UNKNOWN),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Kind.IMAGE),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Kind.IMAGE),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc", Kind.IMAGE),
        (b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2avc1mp41", Kind.VIDEO),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommif1", Kind.VIDEO),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", Kind.VIDEO),
        (b"\0\0\0\x08wide\0\0\0\0mdat", Kind.VIDEO),
        (b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42", Kind.AUDIO),
        (b"\x1aE\xdf\xa3\x01", Kind.VIDEO),
        (b"RIFF\0\0\0\0AVI LIST", Kind.VIDEO),
        (b"RIFF\0\0\0\0WAVEfmt ", Kind.AUDIO),
        (b"ID3\x04", Kind.AUDIO),
        ((b"G" + b"\0" * 187) * 3, Kind.VIDEO),
        ((b"\0\0\0\0G" + b"\0" * 187) * 3, Kind.VIDEO),
        (b"G" * 20, Kind.UNKNOWN),
    ],
)
def test_kinds_are_told_from_first_bytes(first_bytes: bytes, kind: Kind) -> None:
    assert sniff(first_bytes) is kind


@pytest.mark.parametrize("cut", range(40))
def test_any_short_head_is_told_without_error(cut: int) -> None:
    sniff((b"\0\0\0\xffftypmif1" + b"\xff" * 40)[:cut])


@pytest.mark.parametrize(
    ("key", "content_type", "kind"),
    [
        ("a/b.MP4", None, Kind.VIDEO),
        ("clip", "video/webm", Kind.VIDEO),
        ("a.mp4/photo.jpg", None, Kind.IMAGE),
        ("noextension", "", Kind.IMAGE),
    ],
)
def test_a_name_is_enough_for_a_guess(key: str, content_type: str | None, kind: Kind) -> None:
    assert guess_from_name(key, content_type) is kind
