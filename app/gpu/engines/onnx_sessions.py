"""What onnxruntime is told, and what it is asked afterwards, because it does not always say what it did."""

import os
from collections.abc import Iterable
from typing import Any

# onnxruntime's official builds report to Microsoft over HTTPS and keep a device id in the home directory, unless
# this is set before the import (its Privacy.md). Nothing of a face pipeline is to leave the machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def available() -> list[str]:
    """The providers this build of onnxruntime was compiled with; whether they run is another matter."""
    return list(onnxruntime.get_available_providers())


def providers(gpu_id: int | None) -> list[Any]:
    """The providers to ask for: a GPU and what it cannot do on the CPU, or the CPU."""
    if gpu_id is None:
        return [CPU]
    # By default the arena doubles with each growth, and it never shrinks.
    return [(CUDA, {"device_id": str(gpu_id), "arena_extend_strategy": "kSameAsRequested"}), CPU]


def options() -> onnxruntime.SessionOptions:
    """More threads per session slow these small models down; the service runs a process per core instead."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3
    return chosen


def all_on_gpu(sessions: Iterable[onnxruntime.InferenceSession]) -> bool:
    """Whether every session runs on CUDA: onnxruntime falls back without an error (its issue 23372)."""
    return all(session.get_providers()[0] == CUDA for session in sessions)
