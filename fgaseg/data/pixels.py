"""From a picture to the pixels that CLIP reads."""

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 with CLIP's pixel statistics."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD, device=pixels.device)[:, None, None]
    return (pixels.float() / 255).sub_(mean).div_(std)


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
