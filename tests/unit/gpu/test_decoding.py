"""Decoders hold nothing worth having, may die at any time, and are believed only where what they say fits."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from app.common.errors import PermanentError, TransientError
from app.common.wire import EngineCrashedError
from app.gpu import decoding, environment, images
from app.gpu.decode import MEMORY, MEMORY_PER_PIXEL
from app.gpu.decoding import Decoders
from app.gpu.settings import FaceSettings
from app.gpu.slots import KEPT, mapped, slot_bytes
from tests.fixtures import eventually
from tests.media import png_bomb
from tests.unit.gpu.pictures import ORIENTATION, encode

MAX_PIXELS = 10**7


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 3, size[1] // 2))
    return image


#: A picture that leaves no room for another such: it is looked at in parts, at full scale.
WHOLE = encode(picture((5000, 2000)), "JPEG")
ORDINARY = encode(picture((1600, 1600)), "JPEG")


def settings(**more: Any) -> FaceSettings:
    return FaceSettings(max_image_pixels=MAX_PIXELS, **more)


def started(number: int = 1, slots: int = 2, **more: Any) -> "closing[Decoders]":
    return closing(Decoders(settings(**more), number=number, slots=slots, max_side=1600))


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with started(number=2, slots=4) as decoders:
        yield decoders


def width(decoders: Decoders, data: bytes) -> int:
    with decoders.decode(data) as decoded:
        return decoded.width


def waiting(decoders: Decoders) -> int:
    """How many pictures wait for room."""
    return len(decoders._room.turns._queue)


def exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(encode(picture(), name), id=name) for name in ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "BMP")),
        *(pytest.param(encode(picture().convert(mode)), id=mode) for mode in ("L", "LA", "P", "RGBA", "1", "I;16")),
        pytest.param(encode(picture().convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encode(picture(), "JPEG", exif=exif(6)), id="turned"),
        pytest.param(encode(picture(), "MPO", save_all=True, append_images=[picture()]), id="MPO"),
        pytest.param(encode(picture((4000, 3000)), "JPEG", progressive=True), id="reduced"),
        pytest.param(encode(picture((5000, 1000))), id="wide"),
        pytest.param(encode(picture(), "GIF", save_all=True, append_images=[picture((96, 64))]), id="animated"),
    ],
)
def test_what_a_decoder_puts_into_its_slot_is_the_picture(decoders: Decoders, data: bytes) -> None:
    canvas = images.Canvas(memoryview(bytearray(slot_bytes(MAX_PIXELS))))
    here = images.decode(data, images.Limits(MAX_PIXELS, 1600), canvas)
    with decoders.decode(data) as there:
        assert (there.width, there.height, there.notes) == (here.width, here.height, here.notes)
        assert there.planes == here.planes
        engines_view = mapped(there.slot.fd, there.slot.size)
        for plane in there.planes:
            assert np.array_equal(there.pixels(plane), plane.pixels(canvas.memory))
            assert np.array_equal(plane.pixels(engines_view), plane.pixels(canvas.memory))
            assert not there.pixels(plane).flags.writeable


@pytest.mark.parametrize(
    ("data", "code", "judged_by"),
    [
        (b"", "empty", {}),
        (b"text", "not_an_image", {}),
        (png_bomb(50_000), "too_many_pixels", {"MAX_IMAGE_PIXELS": MAX_PIXELS}),
        (encode(picture())[:60], "truncated", {"decoder": images.DECODER}),
        (encode(picture()).replace(b"IDAT", b"ID\0T"), "damaged", {"decoder": images.DECODER}),
    ],
)
def test_a_verdict_names_what_it_depends_on(
    decoders: Decoders, data: bytes, code: str, judged_by: dict[str, Any]
) -> None:
    with pytest.raises(PermanentError) as refused, decoders.decode(data):
        pass
    assert (refused.value.code, json.dumps(refused.value.judged_by)) == (code, json.dumps(judged_by))
    assert refused.value.message.endswith(".")
    assert decoders.version == images.DECODER


def test_a_decoder_holds_no_secret_and_no_slot_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "of the index")
    monkeypatch.setenv("GPU_WORKER_TOKEN", "of the service")
    with started(number=2, slots=4) as decoders:
        held = []
        for pid in decoders.pids:
            variables = psutil.Process(pid).environ()
            assert variables.keys() <= {*decoding.ENVIRONMENT, *environment.ENVIRONMENT, "LC_CTYPE"}
            held.append(
                {link.name for path in Path(f"/proc/{pid}/fd").iterdir() if "memfd" in (link := path.readlink()).name}
            )
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert "Max open files            0                    0" in limits
            assert "Max core file size        0                    0" in limits
        assert [len(slots) for slots in held] == [2, 2]
        assert not held[0] & held[1]


#: A decoder that has been taken over: it runs this in place of decoding and says what came of it as the reason.
TAKEN_OVER = """
import ctypes, os, signal, socket, sys
import numpy
from app.common.errors import PermanentError
from app.gpu import decode, images

libc = ctypes.CDLL(None, use_errno=True)

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")

def decoding(data, limits, canvas):
    try:
        exec(data.decode())
    except OSError as error:
        raise PermanentError("damaged", os.strerror(error.errno))
    raise PermanentError("damaged", "it worked")

decode._warm_up()
decode._warm_up = lambda: None
images.decode = decoding
decode.main(sys.argv[1:])
"""


@pytest.fixture
def taken_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoders]:
    monkeypatch.setattr(decoding, "COMMAND", ("-c", TAKEN_OVER))
    with started() as decoders:
        yield decoders


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ("os.close(0); os.open('/proc/self/environ', os.O_RDONLY)", errno.EMFILE),
        ("os.pipe()", errno.EMFILE),
        ("socket.socket()", errno.EPERM),
        ("os.kill(os.getppid(), 0)", errno.EPERM),
        ("os.execv(sys.executable, [sys.executable])", errno.EPERM),
        ("os.pidfd_open(os.getppid())", errno.EPERM),
        ("call(libc.ptrace(16, os.getppid(), 0, 0))", errno.EPERM),
        ("call(libc.process_vm_readv(os.getppid(), b'', 0, b'', 0, 0))", errno.EPERM),
    ],
)
def test_a_decoder_that_is_taken_over_opens_nothing_and_reaches_nobody(
    taken_over: Decoders, attempt: str, refusal: int
) -> None:
    with pytest.raises(PermanentError) as told, taken_over.decode(attempt.encode()):
        pass
    assert told.value.message == os.strerror(refusal)


def test_a_picture_that_wants_too_much_memory_fails_alone(taken_over: Decoders) -> None:
    take = "numpy.ones({}, numpy.uint8)"
    most = MEMORY + MEMORY_PER_PIXEL * MAX_PIXELS + 2**25
    for _ in range(2):
        with pytest.raises(PermanentError, match="it worked"), taken_over.decode(take.format(most // 2).encode()):
            pass
        with pytest.raises(EngineCrashedError, match="memory"), taken_over.decode(take.format(most).encode()):
            pass


def test_nobody_can_make_a_slot_shorter_under_who_reads_it(decoders: Decoders) -> None:
    with pytest.raises(PermissionError):
        os.truncate(decoders.slots[0].writable_fd, 0)


def test_a_decoder_that_is_killed_costs_its_picture_and_no_other() -> None:
    with started(number=2) as decoders, ThreadPoolExecutor() as threads:
        with decoders.decode(WHOLE) as first:
            hit = threads.submit(width, decoders, WHOLE)
            eventually(lambda: waiting(decoders), "a picture that waits for room")
            psutil.Process(decoders.pids[1]).kill()
            assert first.pixels(first.planes[0]).shape == (2000, 5000, 3)
        with pytest.raises(EngineCrashedError, match=r"died on this picture \(signal SIGKILL"):
            hit.result()
        assert width(decoders, WHOLE) == 5000
        assert all(psutil.pid_exists(pid) for pid in decoders.pids)


def test_whoever_is_killed_when_everything_is_given_back() -> None:
    with started(number=2, slots=4) as decoders, ThreadPoolExecutor(8) as threads:
        outcomes = [threads.submit(width, decoders, (ORDINARY, WHOLE)[number % 4 == 0]) for number in range(60)]
        for number in range(6):
            psutil.Process(decoders.pids[number % 2]).kill()
            time.sleep(0.2)
        errors = [outcome.exception() for outcome in outcomes]
        # One that is killed while it starts has no picture yet.
        assert {type(error) for error in errors if error} <= {EngineCrashedError, TransientError}
        assert sum(error is None for error in errors) >= 54
        assert decoders._room.free == decoders._room.pixels
        assert sum(len(decoder.free) for decoder in decoders._decoders) == 4
        assert width(decoders, WHOLE) == 5000


def test_a_decoder_killed_while_idle_costs_nothing() -> None:
    with started() as decoders:
        psutil.Process(decoders.pids[0]).kill()
        eventually(decoders._decoders[0]._process.has_ended, "the decoder's end")
        assert width(decoders, encode(picture())) == 96


def test_a_decoder_that_hangs_is_ended_in_time() -> None:
    with started(analysis_timeout=1) as decoders:
        psutil.Process(decoders.pids[0]).send_signal(signal.SIGSTOP)
        with pytest.raises(EngineCrashedError, match="longer to decode than the 1 s of ANALYSIS_TIMEOUT"):
            width(decoders, encode(picture()))
        assert width(decoders, encode(picture())) == 96


READY: dict[str, Any] = {"kind": "ready", "decoder": "x"}
PLANE = {"offset": 0, "height": 64, "width": 96, "whole": True, "frame": None}
DONE = {"kind": "decoded", "width": 96, "height": 64, "planes": [PLANE], "notes": [], "decode_ms": 1.0}


def answering(*lines: str, times: int = 1) -> tuple[str, str]:
    """The command of a decoder that answers this to whatever it is asked, and stays."""
    script = f"""
import socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
channel.sendall({json.dumps(READY)!r}.encode() + b"\\n")
channel.recv(1 << 20)
for line in {lines!r}:
    channel.sendall(line.encode() * {times} + b"\\n")
time.sleep(60)
"""
    return "-c", script


def test_the_stand_in_of_the_tests_below_is_believed_while_it_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "COMMAND", answering(json.dumps(DONE)))
    with started() as decoders, decoders.decode(b"picture") as decoded:
        assert decoded.pixels(decoded.planes[0]).shape == (64, 96, 3)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        json.dumps(READY),
        json.dumps({**DONE, "planes": []}),
        json.dumps({**DONE, "planes": [PLANE] * 65}),
        json.dumps({**DONE, "planes": [{**PLANE, "offset": -1}]}),
        json.dumps({**DONE, "planes": [{**PLANE, "offset": slot_bytes(MAX_PIXELS) - 96 * 64 * 3 + 1}]}),
        json.dumps({**DONE, "planes": [{**PLANE, "height": 10**9}]}),
        json.dumps({**DONE, "planes": [{**PLANE, "height": 0}]}),
        json.dumps({**DONE, "planes": [{**PLANE, "height": 1, "width": 10**6, "whole": False}]}),
        json.dumps({**DONE, "width": 10**6, "height": 10**6}),
        json.dumps({**DONE, "width": "96"}),
        json.dumps({**DONE, "decode_ms": float("nan")}),
        json.dumps({**DONE, "notes": ["x"] * 17}),
        json.dumps({**DONE, "extra": 1}),
        json.dumps({"kind": "rejected", "code": "internal", "message": "", "judged_by": {}}),
        json.dumps({"kind": "rejected", "code": "damaged", "message": "", "judged_by": {"MIN_SCORE": 0}}),
        json.dumps({"kind": "admit", "pixels": -1}),
    ],
)
def test_nonsense_from_a_decoder_is_not_believed(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(decoding, "COMMAND", answering(line))
    with started() as decoders:
        [before] = decoders.pids
        with pytest.raises(EngineCrashedError, match="answered nonsense"), decoders.decode(b"picture"):
            pass
        assert decoders.pids != [before]


def test_a_decoder_that_answers_without_end_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "COMMAND", answering("nonsense", times=2**20))
    with started() as decoders, pytest.raises(EngineCrashedError, match="a line of more than"):
        width(decoders, b"picture")


def test_decoders_that_do_not_start_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "COMMAND", ("-c", "raise SystemExit(3)"))
    with pytest.raises(TransientError, match="did not start: exit status 3"):
        started()


def test_large_pictures_wait_for_each_other_and_ordinary_ones_for_nobody() -> None:
    with started(number=4, slots=4) as decoders, ThreadPoolExecutor() as threads:
        with decoders.decode(WHOLE), decoders.decode(ORDINARY), decoders.decode(ORDINARY):
            assert width(decoders, ORDINARY) == 1600
            another = threads.submit(width, decoders, WHOLE)
            eventually(lambda: waiting(decoders), "a picture that waits for room")
            assert not another.done()
        assert another.result() == 5000
        with decoders.decode(encode(picture((4000, 2500)))):  # held at half scale
            assert width(decoders, WHOLE) == 5000


def test_waiting_for_room_is_not_a_pictures_time() -> None:
    with started(number=2, analysis_timeout=1) as decoders, ThreadPoolExecutor() as threads:
        with decoders.decode(WHOLE):
            other = threads.submit(width, decoders, WHOLE)
            eventually(lambda: waiting(decoders), "a picture that waits for room")
            time.sleep(1.2)
        assert other.result() == 5000


def page_faults(pid: int) -> int:
    """Pages that a process was given until now."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def test_a_decoder_keeps_the_memory_that_every_picture_takes() -> None:
    data = encode(picture((1600, 1200)), "WEBP")
    with started(slots=1) as decoders:
        [pid] = decoders.pids
        faults = []
        for _ in range(4):
            before = page_faults(pid)
            width(decoders, data)
            faults.append(page_faults(pid) - before)
    assert faults[0] > 300 > faults[-1]


def test_a_free_slot_keeps_little_memory() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (2000, 4900, 3), np.uint8))
    with started() as decoders:
        with decoders.decode(encode(noise)) as decoded:
            assert os.fstat(decoded.slot.fd).st_blocks * 512 > 29_000_000
        assert sum(os.fstat(slot.fd).st_blocks * 512 for slot in decoders.slots) <= KEPT + 4096


def test_decoders_end_with_the_service() -> None:
    script = """
import sys
from app.gpu.decode import MEMORY, MEMORY_PER_PIXEL
from app.gpu.decoding import Decoders
from app.gpu.settings import FaceSettings
decoders = Decoders(FaceSettings(), number=1, slots=1, max_side=1600)
print(*decoders.pids, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as service:
        assert service.stdout
        decoder = psutil.Process(int(service.stdout.readline()))
        service.kill()
    eventually(lambda: not decoder.is_running() or decoder.status() == psutil.STATUS_ZOMBIE, "the decoder's end")
