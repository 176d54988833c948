"""How torch runs in every process of the project."""

import torch


def set_up_torch(threads: int) -> torch.device:
    """Deterministic kernels, a fixed number of threads, and the device: the GPU where there is one."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
