"""A picture's file without what lies beside the pixels: texts, profiles, thumbnails and the like.

Nothing of it is needed here, but a decoder may refuse the whole file for it.
"""

from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"

#: Ancillary chunks that say how the pixels are meant.
PNG_KEPT = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")

#: With its marker.
APP14_BYTES = 16

SOS, APP0, APP1, APP14, COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xFE


def without(data: bytes) -> bytes | None:
    """The same picture without side data; None for a format where there is nothing to gain, or no order at all."""
    if data.startswith(PNG):
        return PNG + b"".join(_png_chunks(data))
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    return None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        # A lower-case first letter marks what a reader may leave out (PNG, section 5.4).
        if kind in PNG_KEPT or not kind[:1].islower():
            yield data[at:end]
        at = end
    if at < len(data):
        yield data[at:]


def _jpeg(data: bytes) -> bytes | None:
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == SOS:
            return b"".join([*kept, data[at:]])
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        # APP14 says how the colours are meant, where it is long enough to.
        aside = marker == COM or (APP0 < marker <= 0xEF and (marker != APP14 or end - at < APP14_BYTES))
        if not aside or (marker == APP1 and data[at + 4 : at + 10] == b"Exif\0\0"):
            kept.append(data[at:end])
        at = end
    return None
