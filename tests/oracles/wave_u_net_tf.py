"""The first Wave-U-Net in TensorFlow's operations, on random weights, saved as a checkpoint of TensorFlow 1.

Written from its description, with the names of f90/Wave-U-Net, which needs TensorFlow 1. Chunks follow each
other from the track's first sample on, each with its context; the last one is continued by silence. The
environment is that of spleeter_tf.py.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

v1 = tf.compat.v1
with safe_open(sys.argv[1], "np") as file:
    arguments = json.loads(file.metadata()["arguments"])
    mix = file.get_tensor("mix").T.astype(np.float32)  # [T, C]
levels, width = arguments["num_layers"], arguments["num_initial_filters"]
names, learned = arguments["source_names"], arguments["learned_upsampling"]
taken, given = arguments["taken"], arguments["given"]
random = np.random.default_rng(0)
count = 0


def convolved(x: tf.Tensor, out: int, size: int) -> tf.Tensor:
    """Make the next convolution, without padding."""
    global count
    name = f"separator/conv1d_{count}" if count else "separator/conv1d"
    count += 1
    shape = (size, x.shape[2], out)
    start = random.normal(0, 1.3 / np.sqrt(size * shape[1]), shape).astype(np.float32)
    kernel = v1.get_variable(f"{name}/kernel", initializer=start)
    bias = v1.get_variable(f"{name}/bias", initializer=random.normal(0, 0.1, out).astype(np.float32))
    return tf.nn.conv1d(x, kernel, stride=1, padding="VALID") + bias


def leaky(x: tf.Tensor) -> tf.Tensor:
    return tf.maximum(0.2 * x, x)


def finer(x: tf.Tensor, level: int) -> tf.Tensor:
    """[1, T, W] -> [1, 2·T − 1, W]."""
    samples = 2 * x.shape[1] - 1
    if not learned:
        return v1.image.resize_bilinear(x[:, None], [1, samples], align_corners=True)[:, 0]
    start = random.normal(0, 1, x.shape[2]).astype(np.float32)
    share = tf.sigmoid(v1.get_variable(f"separator/interp_{level}", initializer=start))
    between = share * x[:, :-1] + (1 - share) * x[:, 1:]
    order = [i // 2 if i % 2 == 0 else x.shape[1] + i // 2 for i in range(samples)]
    return tf.gather(tf.concat([x, between], axis=1), order, axis=1)


def cropped(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    start = (x.shape[1] - like.shape[1]) // 2
    return x[:, start : start + like.shape[1]]


v1.disable_eager_execution()
with tf.Graph().as_default(), v1.Session() as session:
    chunk = v1.placeholder(tf.float32, (1, taken, mix.shape[1]))
    x, skips = chunk, []
    for level in range(levels):
        skips.append(leaky(convolved(x, width * (level + 1), arguments["filter_size"])))
        x = skips[-1][:, ::2]
    x = leaky(convolved(x, width * (levels + 1), arguments["filter_size"]))
    for level in range(levels):
        x = finer(x, level)
        x = tf.concat([cropped(skips[-1 - level], x), x], axis=2)
        x = leaky(convolved(x, width * (levels - level), arguments["merge_filter_size"]))
    x = tf.concat([cropped(chunk, x), x], axis=2)
    stems = [tf.tanh(convolved(x, mix.shape[1], 1)) for _ in names[:-1]]
    stems.append(tf.clip_by_value(cropped(chunk, x) - sum(stems), -1, 1))
    assert x.shape[1] == given
    v1.get_variable("global_step", initializer=np.int64(7))
    session.run(v1.global_variables_initializer())
    v1.train.Saver().save(session, str(Path(arguments["checkpoint"]) / "model"))
    context = (taken - given) // 2
    padded = np.pad(mix, ((context, taken), (0, 0)))
    places = range(0, len(mix), given)
    parts = [session.run(stems, {chunk: padded[None, at : at + taken]}) for at in places]
    found = np.concatenate(parts, axis=2)[:, 0, : len(mix)]  # [S, T, C]
    save_file({"stems": np.ascontiguousarray(found.transpose(0, 2, 1))}, sys.argv[2])
