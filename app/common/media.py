"""What kind of media an object is: a guess from its name for the queue, the truth from its first bytes."""

from collections.abc import Callable
from enum import StrEnum

#: Enough of an object to tell its kind: an MPEG-TS needs its third sync byte.
HEAD_BYTES = 512

#: What is accepted, as people call it.
PICTURES = "JPEG, PNG, WebP, GIF, HEIC/HEIF, AVIF and BMP"
VIDEOS = "MP4, MOV, MKV, WebM, AVI, MPEG-TS, MPEG, VOB, FLV, WMV and Ogg"

# fmt: off
VIDEO_EXTENSIONS = frozenset((
    "3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv",
))

#: ISO base media brands (ISO/IEC 14496-12) that mark a still image: HEIF and AVIF.
IMAGE_BRANDS = frozenset((
    b"avif", b"avis", b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx", b"mif1", b"msf1",
))
# fmt: on
ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class Kind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    EMPTY = "empty"
    UNKNOWN = "unknown"


def guess_from_name(key: str, content_type: str | None = None) -> Kind:
    """Guess from name and content type, for choosing a queue and a time limit; never a verdict."""
    if (content_type or "").startswith("video/") or key.rpartition(".")[2].lower() in VIDEO_EXTENSIONS:
        return Kind.VIDEO
    return Kind.IMAGE


def sniff(head: bytes) -> Kind:
    """Tell the kind from an object's first `HEAD_BYTES` bytes."""
    if not head:
        return Kind.EMPTY
    for kind, matches in _SIGNATURES:
        if matches(head):
            return kind
    return Kind.UNKNOWN


def _is_iso_image(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(head[:4], "big"), len(head))
    major, compatible = head[8:12], {head[at : at + 4] for at in range(16, size - 3, 4)}
    # A phone's video may list an image brand as compatible; the major brand decides where it is telling.
    return major in IMAGE_BRANDS or (not compatible.isdisjoint(IMAGE_BRANDS) and b"isom" not in {major, *compatible})


def _is_iso_audio(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in (b"M4A ", b"M4B ", b"M4P ")


def _is_iso_video(head: bytes) -> bool:
    return head[4:8] in ISO_BOXES


def _is_transport_stream(head: bytes) -> bool:
    plain = head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G"
    timestamped = head[4:5] == b"G" and head[196:197] == b"G" and head[388:389] == b"G"  # M2TS
    return plain or timestamped


_SIGNATURES: tuple[tuple[Kind, Callable[[bytes], bool]], ...] = (
    (
        Kind.IMAGE,
        lambda h: (
            h.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
            or (h[:4] == b"RIFF" and h[8:12] == b"WEBP")
            or (h[:2] == b"BM" and h[6:10] == b"\0\0\0\0")
            or _is_iso_image(h)
        ),
    ),
    (
        Kind.AUDIO,
        lambda h: (
            h.startswith((b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9"))
            or (h[:4] == b"RIFF" and h[8:12] == b"WAVE")
            or _is_iso_audio(h)
        ),
    ),
    (
        Kind.VIDEO,
        lambda h: (
            h.startswith(
                (
                    b"\x1aE\xdf\xa3",  # Matroska, WebM
                    b"FLV\x01",
                    b"\x00\x00\x01\xba",  # MPEG program stream
                    b"\x00\x00\x01\xb3",  # MPEG video
                    b"0&\xb2u\x8ef\xcf\x11",  # ASF, WMV
                    b"OggS",
                )
            )
            or (h[:4] == b"RIFF" and h[8:12] == b"AVI ")
            or _is_iso_video(h)
            or _is_transport_stream(h)
        ),
    ),
)
