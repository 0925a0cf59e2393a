"""Small ONNX packs with the layout of insightface's.

They stand in for the pretrained packs, which are not free to share: a detector that finds bright squares on a dark
ground, and a recogniser that projects what it sees. Real SCRFD and ArcFace packs take their place in MODEL_DIR.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
#: A detector cell finds a square of this side, in strides, around its own centre; others half a square off do not.
SIDE = 4
#: Landmarks from a square's centre, in strides: eyes, nose, corners of the mouth.
LANDMARKS = (-1, -1, 1, -1, 0, 0, -0.8, 1, 0.8, 1)


def write_pack(
    directory: Path,
    *,
    static_detector: bool = False,
    batch: int | None = None,
    seed: int = 0,
    landmarks: Sequence[float] = LANDMARKS,
    detector_batch: Literal["none", "real", "false"] = "none",
) -> Path:
    """Write a detector and a recogniser, the latter with a fixed batch if one is given; return the directory.

    A detector may take any number of images, really, or say so and mix them up.
    """
    directory.mkdir(parents=True)
    detector = _detector(640 if static_detector else None, landmarks, detector_batch)
    onnx.save(detector, str(directory / "det_blob.onnx"))
    onnx.save(_recogniser(batch or "None", seed), str(directory / "rec_blob.onnx"))
    return directory


def _constant(name: str, values: object, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _detector(size: int | None, landmarks: Sequence[float], batch: str) -> onnx.ModelProto:
    """SCRFD's nine outputs: scores, boxes and landmarks of two anchors per cell at three strides."""
    side: list[int | str] = [size, size] if size else ["?", "?"]  # one symbol for both, as in the older packs
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1 if batch == "none" else "n", 3, *side])
    # Of a batch's axis: none in the outputs, kept, or taken for 1.
    axis: list[int] = {"none": [], "real": [0], "false": [1]}[batch]
    constants = [
        _constant("one", 1.0),
        _constant("half", 0.5),
        _constant("zero", 0.0),
        _constant("gain", 40.0),
        _constant("bias", -23.0),
        _constant("flat", [*axis, -1, 1], np.int64),
        _constant("twice", [*(1 for _ in axis), 1, 2], np.int64),
        _constant("box", [SIDE / 2] * 4),
        _constant("points", landmarks),
    ]
    nodes = [
        helper.make_node("Add", ["input.1", "one"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "half"], ["light"]),  # 0 is black, as the padding of a pool is
        helper.make_node("ReduceMean", ["light"], ["grey"], axes=[1], keepdims=1),
    ]
    outputs: dict[str, list[onnx.ValueInfoProto]] = {"score": [], "bbox": [], "kps": []}
    for stride in STRIDES:
        nodes.append(
            helper.make_node(
                "AveragePool", ["grey"], [f"grid{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for name, reach in (("inner", SIDE), ("outer", 2 * SIDE)):
            nodes.append(
                helper.make_node(
                    "AveragePool",
                    [f"grid{stride}"],
                    [f"{name}{stride}"],
                    kernel_shape=[reach] * 2,
                    pads=[reach // 2, reach // 2, reach // 2 - 1, reach // 2 - 1],
                    count_include_pad=1,
                )
            )
        s = str(stride)
        nodes += [
            # A square as large as the inner window stands out of the outer one.
            helper.make_node("Sub", [f"inner{s}", f"outer{s}"], [f"contrast{s}"]),
            helper.make_node("Mul", [f"contrast{s}", "gain"], [f"scaled{s}"]),
            helper.make_node("Add", [f"scaled{s}", "bias"], [f"logit{s}"]),
            helper.make_node("Sigmoid", [f"logit{s}"], [f"cells{s}"]),
            helper.make_node("Reshape", [f"cells{s}", "flat"], [f"column{s}"]),
            helper.make_node("Tile", [f"column{s}", "twice"], [f"anchors{s}"]),
            helper.make_node("Reshape", [f"anchors{s}", "flat"], [f"score{s}"]),
            helper.make_node("Mul", [f"score{s}", "zero"], [f"nothing{s}"]),
            helper.make_node("Add", [f"nothing{s}", "box"], [f"bbox{s}"]),
            helper.make_node("Add", [f"nothing{s}", "points"], [f"kps{s}"]),
        ]
        for name, width in (("score", 1), ("bbox", 4), ("kps", 10)):
            shape: list[int | str] = [*("n" for _ in axis), f"n{s}", width]
            outputs[name].append(helper.make_tensor_value_info(f"{name}{s}", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes, "detector", [image], [*outputs["score"], *outputs["bbox"], *outputs["kps"]], constants
    )
    return _model(graph)


def _recogniser(batch: int | str, seed: int) -> onnx.ModelProto:
    """ArcFace's shape: 112 × 112 to 512 numbers; declared as one embedding whatever the batch, as exporters do."""
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, 112, 112])
    embedding = helper.make_tensor_value_info(
        "embedding", TensorProto.FLOAT, [batch if isinstance(batch, int) else 1, 512]
    )
    projection = np.random.default_rng(seed).normal(size=(147, 512))
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
    ]
    return _model(helper.make_graph(nodes, "recogniser", [image], [embedding], [_constant("projection", projection)]))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model
