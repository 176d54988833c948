"""Weights for tests: moved away from where they start, and as arrays for the oracle."""

import torch
from oracle_layers import Weights
from torch import nn


def perturb(module: nn.Module, seed: int, scale: float = 0.3) -> None:
    """Change every parameter and running statistic, those too that start at 0 or 1; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=scale)
        for tensor in module.buffers():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype), alpha=scale)


def arrays(module: nn.Module) -> Weights:
    """The module's state dict as float64 arrays."""
    return {name: tensor.detach().double().numpy().copy() for name, tensor in module.state_dict().items()}
