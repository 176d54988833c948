"""How torch runs in every process of the project."""

import torch


def set_up_torch(threads: int, local_rank: int = 0) -> torch.device:
    """A fixed number of CPU threads, and the device: the GPU of this process of the machine, where there is one.

    On the CPU the kernels are deterministic, so that a resumed training ends in the same weights bit for bit; on a GPU
    that would replace the resizing of logits by slow kernels.
    """
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():  # a cluster may show each process its own GPU alone
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device
