"""Elementary layers as plain loops over float64 arrays: what the equations of `oracle.py` are written with.

A layer's weights come as a mapping from parameter names to arrays, as a module's state dict has them.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def part(weights: Weights, prefix: str) -> Weights:
    """The weights of the submodule `prefix`, named as that submodule names them."""
    return {name.removeprefix(f"{prefix}."): value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def linear(weights: Weights, x: Array) -> Array:
    """(I,) -> (O,)."""
    weight = weights["weight"].tolist()
    out = [sum(w * value for w, value in zip(row, x.tolist(), strict=True)) for row in weight]
    return np.array(out) + weights.get("bias", np.zeros(len(out)))


def linear_rows(weights: Weights, rows: Array) -> Array:
    """(N, I) -> (N, O)."""
    return np.array([linear(weights, row) for row in rows])


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def gelu(x: Array) -> Array:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


def quick_gelu(x: Array) -> Array:
    return np.array([v / (1 + math.exp(-1.702 * v)) for v in x.ravel()]).reshape(x.shape)


def normalised(x: Array) -> Array:
    """A vector divided by its L2 norm."""
    return x / math.sqrt(sum(v * v for v in x))


def softmax(scores: Sequence[float]) -> list[float]:
    largest = max(scores)
    powers = [math.exp(s - largest) for s in scores]
    return [p / sum(powers) for p in powers]


def standardised(x: Array) -> Array:
    """Zero mean and unit (biased) variance over all elements, with the usual 1e-5."""
    mean = sum(x.ravel()) / x.size
    variance = sum((v - mean) ** 2 for v in x.ravel()) / x.size
    return (x - mean) / math.sqrt(variance + 1e-5)


def layer_norm(weights: Weights, x: Array) -> Array:
    """(C,) -> (C,)."""
    return standardised(x) * weights["weight"] + weights["bias"]


def layer_norm_rows(weights: Weights, rows: Array) -> Array:
    return np.array([layer_norm(weights, row) for row in rows])


def group_norm(weights: Weights, x: Array, groups: int) -> Array:
    """(C, H, W) -> (C, H, W)."""
    size = len(x) // groups
    out = np.concatenate([standardised(x[g * size : (g + 1) * size]) for g in range(groups)])
    return out * weights["weight"][:, None, None] + weights["bias"][:, None, None]


def instance_norm(weights: Weights, x: Array) -> Array:
    """(C, H, W) -> (C, H, W), each channel of the image standardised."""
    out = np.empty_like(x)
    for c in range(len(x)):
        out[c] = standardised(x[c]) * weights["weight"][c] + weights["bias"][c]
    return out


def convolve(x: Array, kernel: Array, bias: float = 0.0) -> Array:
    """(C, H, W) with one kernel (C, k, k) -> (H, W), zeros beyond the border."""
    channels, height, width = x.shape
    size = kernel.shape[1]
    values, taps = x.tolist(), kernel.tolist()
    out = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            total = bias
            for dy in range(size):
                for dx in range(size):
                    r, c = row + dy - size // 2, column + dx - size // 2
                    if 0 <= r < height and 0 <= c < width:
                        for channel in range(channels):
                            total += taps[channel][dy][dx] * values[channel][r][c]
            out[row, column] = total
    return out


def conv2d(weights: Weights, x: Array) -> Array:
    """(C, H, W) -> (O, H, W)."""
    kernels = weights["weight"]
    biases = weights.get("bias", np.zeros(len(kernels)))
    return np.array([convolve(x, kernel, float(bias)) for kernel, bias in zip(kernels, biases, strict=True)])


def transposed_conv2d(weights: Weights, x: Array) -> Array:
    """(I, H, W) -> (O, s H, s W) with kernels (I, O, s, s) at stride s: each cell becomes one s x s block."""
    kernels, bias = weights["weight"], weights["bias"]
    inputs, outputs, size, _ = kernels.shape
    height, width = x.shape[1:]
    out = np.empty((outputs, height * size, width * size))
    for o in range(outputs):
        for row in range(height * size):
            for column in range(width * size):
                taps = kernels[:, o, row % size, column % size]
                cell = x[:, row // size, column // size]
                out[o, row, column] = bias[o] + sum(taps[i] * cell[i] for i in range(inputs))
    return out


def average_pool(x: Array, size: int) -> Array:
    """(C, H, W) -> (C, H / size, W / size)."""
    channels, height, width = x.shape
    out = np.empty((channels, height // size, width // size))
    for c in range(channels):
        for row in range(height // size):
            for column in range(width // size):
                block = x[c, row * size : (row + 1) * size, column * size : (column + 1) * size]
                out[c, row, column] = sum(block.ravel()) / size**2
    return out


def _neighbours(index: int, length: int, new_length: int) -> tuple[int, int, float]:
    position = max(0.0, (index + 0.5) * length / new_length - 0.5)
    low = int(position)
    return low, min(low + 1, length - 1), position - low


def bilinear(x: Array, height: int, width: int) -> Array:
    """(C, H, W) -> (C, height, width); cell centres, not corners, are aligned."""
    out = np.empty((len(x), height, width))
    for row in range(height):
        top, bottom, down = _neighbours(row, x.shape[1], height)
        for column in range(width):
            left, right, across = _neighbours(column, x.shape[2], width)
            upper = x[:, top, left] * (1 - across) + x[:, top, right] * across
            lower = x[:, bottom, left] * (1 - across) + x[:, bottom, right] * across
            out[:, row, column] = upper * (1 - down) + lower * down
    return out


def attend(
    queries: Array, keys: Array, values: Array, heads: int, visible: Callable[[int, int], bool] = lambda i, j: True
) -> Array:
    """Scaled dot-product attention of (N, C) queries over (M, C) keys; query i sees key j where `visible(i, j)`."""
    size = keys.shape[1] // heads
    out = np.zeros((len(queries), values.shape[1]))
    for head in range(heads):
        channels = range(head * size, (head + 1) * size)
        for i in range(len(queries)):
            seen = [j for j in range(len(keys)) if visible(i, j)]
            scores = [sum(queries[i, c] * keys[j, c] for c in channels) / math.sqrt(size) for j in seen]
            for weight, j in zip(softmax(scores), seen, strict=True):
                for c in channels:
                    out[i, c] += weight * values[j, c]
    return out
