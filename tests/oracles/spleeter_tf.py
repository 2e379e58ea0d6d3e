"""Separate with spleeter's own graph, on random weights, and save them as a checkpoint of TensorFlow 1.

The environment has tensorflow-cpu, tf-keras (the layers that spleeter was written for), safetensors, and
spleeter without its requirements.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from spleeter.model import EstimatorSpecBuilder  # noqa: E402


def weights(variables: list[tf.Variable]) -> Iterator[tf.Operation]:
    """Yield operations that give every variable random values of realistic size."""
    random = np.random.default_rng(0)
    for variable in variables:
        shape = variable.shape.as_list()
        if len(shape) > 1:
            # a transposed convolution has its inputs last, and one in four of its taps meets a pixel
            fan = shape[0] * shape[1] * (shape[3] / 4 if "transpose" in variable.name else shape[2])
            value = random.normal(0, 1.3 / np.sqrt(fan), shape)
        elif "variance" in variable.name or "gamma" in variable.name:
            value = random.uniform(0.6, 1.4, shape)
        else:
            value = random.normal(0, 0.2, shape)
        yield variable.assign(value.astype(np.float32))


with safe_open(sys.argv[1], "np") as file:
    arguments = json.loads(file.metadata()["arguments"])
    mix = file.get_tensor("mix")  # [C, T]
tf.compat.v1.disable_eager_execution()
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    waveform = tf.compat.v1.placeholder(tf.float32, (None, arguments["n_channels"]))
    outputs = EstimatorSpecBuilder({"waveform": waveform}, arguments).outputs
    session.run(tf.compat.v1.global_variables_initializer())
    session.run(list(weights(tf.compat.v1.global_variables())))
    if arguments.get("checkpoint"):
        tf.compat.v1.train.Saver().save(session, str(Path(arguments["checkpoint"]) / "model"))
    stems = session.run(outputs, {waveform: mix.T})
    names = arguments["instrument_list"]
    save_file({"stems": np.stack([np.ascontiguousarray(stems[name].T) for name in names])}, sys.argv[2])
