"""`python -m tests.bench.memory`: memory of the processes at idle, and of the worker on a video of an hour."""

import argparse
import os
import tempfile
import threading
from pathlib import Path

import av
import psutil

from infra.local.stack import Stack
from tests import media
from tests.fixtures import local_settings, pipeline

MB = 2**20

#: Size and frame rate of the video, and seconds of it that are encoded and then repeated.
SIZE = (1280, 720)
FPS = 25
CLIP_SECONDS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="length of the video (60)")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as scratch, Stack(local_settings(Path(scratch) / "stack", workers=1)) as stack:
        path = Path(scratch) / "long.mp4"
        long_video(path, minutes)
        print(f"a video of {minutes} minutes, {path.stat().st_size / MB:.0f} MB")
        found = pipeline(stack)
        idle = {name: family_rss(process.pid) for name, process in stack.processes.items()}
        for name, size in idle.items():
            print(f"{name} at idle: {size / MB:.0f} MB resident, its processes added up")
        worker = stack.processes["worker-1"].pid
        peak = Peak(worker)
        found.minio.fput_object("videos", "long.mp4", str(path))
        item = found.indexed("videos", "long.mp4", timeout=3600)["item"]
        largest = peak.stop()
        above = largest - idle["worker-1"]
        print(f"worker on the video: {largest / MB:.0f} MB at most, {above / MB:.0f} MB above idle")
        print(f"  in {item['timings_ms']['total'] / 1000:.0f} s: {item['frames']}")
        found.http.clear()
        found.redis.close()


class Peak:
    """The largest memory of a process and its children, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self._done = threading.Event()
        self._largest = 0
        self._thread = threading.Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._largest

    def _watch(self, pid: int) -> None:
        while not self._done.wait(0.1):
            self._largest = max(self._largest, family_rss(pid))


def family_rss(pid: int) -> int:
    """Resident bytes of a process and its descendants; pages they share count for each."""
    total = 0
    leader = psutil.Process(pid)
    for member in (leader, *leader.children(recursive=True)):
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def long_video(path: Path, minutes: int) -> None:
    """Encode a clip once and repeat its packets."""
    frames = (media.numbered(SIZE, number) for number in range(FPS * CLIP_SECONDS))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as clip:
        clip.write(media.video(frames, fps=FPS, codec_options={"preset": "ultrafast", "g": "250", "bf": "0"}))
        clip.flush()
        with av.open(str(path), "w") as output:
            stream = None
            for repeat in range(minutes * 60 // CLIP_SECONDS):
                with av.open(clip.name, mode="r") as source:
                    one = source.streams.video[0]
                    stream = stream or output.add_stream_from_template(one)
                    shift = round(repeat * CLIP_SECONDS / (one.time_base or 1))
                    for packet in source.demux(one):
                        if packet.dts is None or packet.pts is None:
                            continue
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        output.mux(packet)


if __name__ == "__main__":
    os.environ.pop("WEBHOOK_TOKEN", None)
    main()
