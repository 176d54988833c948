"""How torch runs in every process of the project."""

import torch

from fgaseg.model.aggregation import GuidedSwinBlock
from fgaseg.model.chunks import Chunks
from fgaseg.model.fgaseg import FGAseg
from fgaseg.schema import Launch, Scale


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


def suit(model: FGAseg, launch: Launch, scale: Scale) -> FGAseg:
    """Let the model use the machine as `launch` says: classes at once, what training recomputes, compiled parts."""
    model.chunks = Chunks(launch.classes_at_once[scale], launch.recompute[scale])
    if launch.compile:
        compile_parts(model)
    return model


def compile_parts(model: FGAseg) -> None:
    """Compile what gains by it: blocks of many small operations. What cannot be compiled runs as it is."""
    torch._dynamo.config.suppress_errors = True
    for module in model.modules():
        if isinstance(module, GuidedSwinBlock):
            module.compile(dynamic=True)
