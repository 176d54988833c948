"""How torch runs in every process of the project."""

import torch


def set_up_torch(threads: int) -> torch.device:
    """A fixed number of CPU threads, and the device: the GPU where there is one.

    On the CPU the kernels are deterministic, so that a resumed training ends in the same weights bit for bit; on a GPU
    that would replace the resizing of logits by slow kernels.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device
