"""Objects that were compressed before they were stored: told by their bytes, unpacked within a limit.

What the header Content-Encoding says is a hint and no more: bytes that are a picture as they are, are one.
"""

import zlib
from collections.abc import Iterable

from app.common.errors import PermanentError
from app.common.media import HEAD_BYTES, Kind, sniff

#: How zlib is told of a gzip or zlib header that it is to find itself, and of bytes without either.
ANY_HEADER = zlib.MAX_WBITS | 32
NO_HEADER = -zlib.MAX_WBITS

GZIP = b"\x1f\x8b"

#: Ways of compressing that are named in Content-Encoding and not unpacked here.
OTHER = frozenset(("br", "zstd", "compress", "x-compress"))

#: Bytes unpacked at a time.
PIECE_BYTES = 2**18


def how_compressed(head: bytes, encoding: str) -> str | None:
    """How an object is compressed, from its first bytes and its Content-Encoding; None: not at all."""
    said = {part.strip().lower() for part in encoding.split(",")}
    if sniff(head) not in (Kind.UNKNOWN, Kind.EMPTY):
        return None
    if head.startswith(GZIP):
        return "gzip"
    if "deflate" in said and _begins(head, ANY_HEADER, NO_HEADER):
        return "deflate"
    return next(iter(sorted(said & OTHER)), None)


def inflated_kind(head: bytes, how: str) -> Kind:
    """What the first bytes of a compressed object unpack to."""
    for wbits in _headers(how):
        try:
            return sniff(zlib.decompressobj(wbits).decompress(head, HEAD_BYTES))
        except zlib.error:
            continue
    return Kind.UNKNOWN


def inflate(pieces: Iterable[bytes], how: str, limit: int) -> bytes:
    """What a compressed object unpacks to; no more than `limit` bytes of it are ever held.

    Raises:
        PermanentError: it is more, or is damaged.
    """
    found, unpacker = bytearray(), None
    for piece in pieces:
        unpacker = unpacker or zlib.decompressobj(_fitting(piece, how))
        while piece:
            try:
                found += unpacker.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise PermanentError("damaged", f"The object is compressed ({how}) and damaged: {error}.") from error
            if len(found) > limit:
                raise PermanentError(
                    "too_many_bytes",
                    f"The picture is compressed ({how}) and unpacks to more than MAX_IMAGE_BYTES={limit} bytes.",
                    {"MAX_IMAGE_BYTES": limit},
                )
            piece = unpacker.unconsumed_tail
    if unpacker is None or not unpacker.eof:
        raise PermanentError("truncated", f"The object is compressed ({how}) and ends early.")
    return bytes(found)


def _headers(how: str) -> tuple[int, ...]:
    return (ANY_HEADER, NO_HEADER) if how == "deflate" else (ANY_HEADER,)


def _fitting(head: bytes, how: str) -> int:
    return next((wbits for wbits in _headers(how) if _begins(head, wbits)), ANY_HEADER)


def _begins(head: bytes, *headers: int) -> bool:
    """Whether bytes are the beginning of something compressed that way."""
    for wbits in headers:
        try:
            if zlib.decompressobj(wbits).decompress(head, HEAD_BYTES):
                return True
        except zlib.error:
            continue
    return False
