"""Losses, schedule, merging of windows and scores (paper, III-E; released code), written out pixel by pixel."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from oracle_layers import Array, bilinear, softmax

Labels = NDArray[np.int64]
VOID = -1


def nearest(labels: Labels, height: int, width: int) -> Labels:
    """Labels (H, W) -> (height, width): each cell takes the pixel at its upper left corner."""
    out = np.empty((height, width), np.int64)
    for row, column in np.ndindex(height, width):
        out[row, column] = labels[row * labels.shape[0] // height, column * labels.shape[1] // width]
    return out


def _binary_cross_entropy(logit: float, target: bool) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability) if target else -math.log(1 - probability)


def _mean_of_means(images: Sequence[Sequence[float]]) -> float:
    """Images count alike, however many terms each has; one without any counts as 0."""
    return sum(sum(terms) / len(terms) if terms else 0.0 for terms in images) / len(images)


def t2p_loss(similarity: Array, labels: Labels, loss: str) -> float:
    """Equation 8: `S` (B, K, 4h, 4w) against one binary mask per class; of each image the mean over classes and cells."""
    images = []
    for maps, image_labels in zip(similarity, labels, strict=True):
        small = nearest(image_labels, *maps.shape[1:])
        terms = []
        for row, column in np.ndindex(small.shape):
            if small[row, column] == VOID:
                continue
            for k in range(len(maps)):
                s, inside = float(maps[k, row, column]), bool(small[row, column] == k)
                terms.append((s - inside) ** 2 if loss == "mse" else _binary_cross_entropy(s, inside))
        images.append(terms)
    return _mean_of_means(images)


def segmentation_loss(logits: Array, labels: Labels, loss: str) -> float:
    """Equation 12: logits (B, K, L, L) against labels (B, S, S); of each image the mean over labelled pixels (and classes)."""
    images = []
    for maps, image_labels in zip(logits, labels, strict=True):
        resized = bilinear(maps, *image_labels.shape)
        terms = []
        for row, column in np.ndindex(image_labels.shape):
            label = image_labels[row, column]
            if label == VOID:
                continue
            pixel = resized[:, row, column].tolist()
            if loss == "ce":
                terms.append(-math.log(softmax(pixel)[label]))
            else:
                terms += [_binary_cross_entropy(logit, k == label) for k, logit in enumerate(pixel)]
        images.append(terms)
    return _mean_of_means(images)


def learning_rate(base: float, step: int, iterations: int) -> float:
    """Cosine from `base` at step 0 to 0 after the last iteration, without warm-up."""
    return base * (1 + math.cos(math.pi * step / iterations)) / 2


def clipped(gradients: Sequence[Array], max_norm: float) -> tuple[list[Array], float]:
    """All gradients scaled by one factor, so that their joint norm is at most `max_norm`; and the norm before."""
    norm = math.sqrt(sum(float(v) ** 2 for g in gradients for v in g.ravel()))
    factor = min(1.0, max_norm / norm)
    return [g * factor for g in gradients], norm


def merged(scores: Array, origins: Sequence[tuple[int, int]], side: int, whole_image: bool) -> Array:
    """Windows (V, K, L, L), the whole image last, at cells `origins` of a side x side map -> (K, side, side)."""
    classes, length = scores.shape[1:3]
    out = np.empty((classes, side, side))
    for row, column in np.ndindex(side, side):
        covering = [
            scores[i, :, row - top, column - left]
            for i, (top, left) in enumerate(origins)
            if top <= row < top + length and left <= column < left + length
        ]
        out[:, row, column] = sum(covering) / len(covering)
    return (out + bilinear(scores[-1], side, side)) / 2 if whole_image else out


def label_map(scores: Array, height: int, width: int) -> Labels:
    """Scores (K, R, R) -> the best class of each pixel, the first one where several are equal."""
    resized = bilinear(scores, height, width)
    out = np.empty((height, width), np.int64)
    for row, column in np.ndindex(height, width):
        pixel = resized[:, row, column].tolist()
        out[row, column] = pixel.index(max(pixel))
    return out


def confusion(predicted: Sequence[Labels], labels: Sequence[Labels], classes: int) -> NDArray[np.int64]:
    """How many labelled pixels of class i are predicted as class j (K, K)."""
    out = np.zeros((classes, classes), np.int64)
    for guess, truth in zip(predicted, labels, strict=True):
        for position in np.ndindex(truth.shape):
            if truth[position] != VOID:
                out[truth[position], guess[position]] += 1
    return out


def miou_of_confusion(matrix: NDArray[np.int64]) -> float:
    """Mean over the classes present in the ground truth of TP / (TP + FP + FN)."""
    ious = []
    for k in range(len(matrix)):
        true_positive = matrix[k, k]
        missed, false = matrix[k].sum() - true_positive, matrix[:, k].sum() - true_positive
        if matrix[k].sum():
            ious.append(true_positive / (true_positive + false + missed))
    return float(sum(ious) / len(ious))


def miou_of_sets(predicted: Sequence[Labels], labels: Sequence[Labels], classes: int) -> float:
    """The same from sets of pixels: |intersection| / |union| of prediction and ground truth of each class."""
    ious = []
    for k in range(classes):
        truth, guess = set(), set()
        for image, (guesses, truths) in enumerate(zip(predicted, labels, strict=True)):
            for position in np.ndindex(truths.shape):
                if truths[position] == k:
                    truth.add((image, position))
                if guesses[position] == k and truths[position] != VOID:
                    guess.add((image, position))
        if truth:
            ious.append(len(truth & guess) / len(truth | guess))
    return sum(ious) / len(ious)
