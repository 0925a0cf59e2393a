"""What is in a video file: its parts, joined end to end, and the streams of pictures in each."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from app.common.errors import PermanentError
from app.common.media import HEAD_BYTES, Kind, sniff

#: The only demuxers a file can reach; playlists and anything that opens other files are not among them.
DEMUXERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"

#: What decoded, for the record.
DECODER = f"av {av.__version__}"

#: AVFMT_TS_DISCONT: the format's clock may start again.
CLOCK_MAY_JUMP = 0x200

#: Pictures that are no moving ones: covers of songs, thumbnails for a seek bar.
STILLS = Disposition.attached_pic | Disposition.timed_thumbnails

#: What a file that libav reads only the first part of begins with, and where: another part is looked for by it.
BEGINNINGS = {b"FLV\x01": 0, b"ftyp": 4, b"0&\xb2u\x8ef\xcf\x11": 0, b"\x1aE\xdf\xa3": 0, b"\x00\x00\x01\xba": 0}
TS_SYNC, TS_PACKETS = b"\x47", (188, 192)
#: Bytes read at once when looking for another part, and bytes that are not worth looking through.
CHUNK = 2**20
A_REST = 4096


@contextmanager
def opened(stream: BinaryIO, offset: int) -> Iterator[InputContainer]:
    """The part of a file that begins at this byte.

    Raises:
        PermanentError: it is no video, or damaged.
    """
    try:
        container = av.open(
            _Part(stream, offset) if offset else stream,
            mode="r",
            container_options={"format_whitelist": DEMUXERS},
            metadata_errors="replace",
        )
    except av.error.FFmpegError as error:
        raise PermanentError(
            "damaged",
            f"The video cannot be opened; it is damaged or truncated ({error.strerror}).",
            {"video_decoder": DECODER},
        ) from error
    with container:
        yield container


def clock_may_jump(container: InputContainer) -> bool:
    """Whether timestamps may start again in this format."""
    return bool(int(container.format.flags) & CLOCK_MAY_JUMP)


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The streams that are to be looked at: all but covers and thumbnails."""
    return [stream for stream in container.streams.video if not stream.disposition & STILLS]


def why_not(stream: VideoStream, max_pixels: int) -> PermanentError | None:
    """Why a stream cannot be looked at, if so."""
    context = stream.codec_context
    if context is None or not context.name:
        return PermanentError(
            "unsupported_codec",
            "The video's codec is not known to this build of FFmpeg.",
            {"video_decoder": DECODER},
        )
    if context.codec_tag == "encv":
        return PermanentError("encrypted", "The video is encrypted (common encryption); it cannot be decoded.")
    if context.width * context.height > max_pixels:
        return PermanentError(
            "too_many_pixels",
            f"The video has {context.width} × {context.height} pixels a frame, "
            f"more than VIDEO_MAX_PIXELS={max_pixels}.",
            {"VIDEO_MAX_PIXELS": max_pixels},
        )
    return None


def next_part(stream: BinaryIO, begin: int, after: int) -> int | None:
    """Where another part begins, after the last packet of the one that begins at `begin`; None: nowhere.

    libav reads joined MPEG, AVI and Matroska to their end by itself, but of joined MP4, FLV and WMV only the first,
    and of a transport stream only the programs that it began with.
    """
    stream.seek(begin)
    head = stream.read(HEAD_BYTES)
    beginning = next((word for word, at in BEGINNINGS.items() if head[at : at + len(word)] == word), None)
    size = stream.seek(0, io.SEEK_END)
    if size - after < A_REST:
        return None
    if beginning is None:
        return _next_sync(stream, after) if head[:1] == TS_SYNC or head[4:5] == TS_SYNC else None
    return _find(stream, beginning, max(after, begin + len(head)))


def _next_sync(stream: BinaryIO, after: int) -> int | None:
    """The next packet of a transport stream."""
    stream.seek(after)
    data = stream.read(A_REST)
    return next(
        (after + n for n in range(1, 2 * max(TS_PACKETS)) if sniff(data[n : n + HEAD_BYTES]) is Kind.VIDEO), None
    )


def _find(stream: BinaryIO, beginning: bytes, start: int) -> int | None:
    stream.seek(start)
    kept = b""
    while chunk := stream.read(CHUNK):
        data = kept + chunk
        base = stream.tell() - len(data)
        at = data.find(beginning)
        while at >= 0:
            found = at - BEGINNINGS[beginning]
            if found >= 0 and sniff(data[found : found + HEAD_BYTES]) is Kind.VIDEO:
                return base + found
            at = data.find(beginning, at + 1)
        kept = data[-HEAD_BYTES:]
    return None


class _Part:
    """A file from some byte on, as libav reads it."""

    def __init__(self, stream: BinaryIO, offset: int) -> None:
        self._stream, self._offset = stream, offset
        stream.seek(offset)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)

    def tell(self) -> int:
        return self._stream.tell() - self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset + (self._offset if whence == io.SEEK_SET else 0), whence) - self._offset
