"""AdamW, its schedule, and one step over a global batch, whatever the number of processes that share it."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from fgaseg.errors import UserError
from fgaseg.model.fgaseg import FGAseg
from fgaseg.schema import Params, Precision, Training
from fgaseg.training.losses import Losses
from fgaseg.training.ranks import Ranks
from fgaseg.training.state import TrainingState

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)
_TYPES: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}

Batch = tuple[Tensor, Tensor, Sequence[str]]
"""Images that go through the model together (B, 3, S, S), their labels (B, S, S) and names."""


def parameter_groups(model: FGAseg, params: Training) -> list[dict[str, object]]:
    """AdamW's groups: CLIP at its own learning rate, norms without weight decay."""
    norms = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    clip = {id(p) for p in model.clip.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for p in model.parameters():
        if p.requires_grad:
            lr = params.lr * (params.clip_lr_multiplier if id(p) in clip else 1.0)
            decay = 0.0 if id(p) in norms else params.weight_decay
            groups.setdefault((lr, decay), []).append(p)
    return [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()]


def initial_state(model: FGAseg, params: Training) -> TrainingState:
    """AdamW with a cosine schedule to zero over all iterations, at step 0; float16's gradients are scaled."""
    optimiser = torch.optim.AdamW(parameter_groups(model, params), lr=params.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / params.iterations))
    )
    device = model.clip.logit_scale.device.type
    return TrainingState(model, optimiser, schedule, torch.amp.GradScaler(device, enabled=params.precision == "float16"))


def check_precision(precision: Precision, device: torch.device) -> None:
    """`UserError` where the device has no arithmetic of this precision."""
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"training.precision: bfloat16 is not for this GPU ({name}); choose float16 or float32")


class DivergedElsewhereError(UserError):
    """The averaged gradient is not finite, though this process's own losses are: another one's may tell more."""

    echo = True


class Step:
    """One step of the optimiser: the mean loss of the global batch, its clipped gradient, an update.

    Every loss is a mean over images: how these are spread over processes and passes changes nothing but the order of sums.
    """

    def __init__(self, state: TrainingState, params: Params, tokens: Tensor, ranks: Ranks) -> None:
        assert isinstance(state.model, FGAseg)
        self.state, self.model, self.tokens, self.ranks = state, state.model, tokens, ranks
        self.max_norm, self.precision = params.training.max_norm, params.training.precision
        self.trainable = [p for p in state.model.parameters() if p.requires_grad]
        self.losses = ranks.average_gradients_of(Losses(state.model, params))

    def _backward(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Add up the gradients of this process's batches and, with the last one, average them over all processes.

        The text is encoded once: all passes but the last stop at its features, whose gradient the last one carries on.
        """
        device, scaler = self.ranks.device, self.state.scaler
        autocast = torch.autocast(device.type, _TYPES.get(self.precision), enabled=self.precision in _TYPES)
        with autocast:
            text = self.model.clip.encode_text(self.tokens)
        features = text.detach().requires_grad_(text.requires_grad)
        count = sum(len(images) for images, _, _ in batches)
        found: list[dict[str, Tensor]] = []
        for images, labels, names in batches:
            last = len(found) == len(batches) - 1
            if last and text.requires_grad:
                text.register_hook(lambda gradient: gradient if features.grad is None else gradient + features.grad)
            alone = self.losses.no_sync() if self.ranks.world > 1 and not last else nullcontext()  # type: ignore[operator]
            with alone:
                with autocast:
                    terms = self.losses(images.to(device), labels.to(device), text if last else features)
                shares = {name: term * (len(images) / count) for name, term in terms.items()}
                scaler.scale(shares["loss"]).backward()
            found.append({name: term.detach() for name, term in shares.items()})
            self._check_finite(found[-1], names)
        return {name: torch.stack([shares[name] for shares in found]).sum() for name in found[0]}

    def _check_finite(self, terms: dict[str, Tensor], names: Sequence[str]) -> None:
        values = torch.stack(list(terms.values())).tolist()
        for name, value in zip(terms, values, strict=True):
            if name != "loss" and not math.isfinite(value):
                raise UserError(
                    f"iteration {self.state.step + 1}: {name} is {value}; images: {', '.join(names)}; "
                    "look at these images, or lower training.lr"
                )

    def __call__(self, batches: Sequence[Batch]) -> tuple[dict[str, Tensor], Tensor]:
        """Take one step; returns this process's mean loss terms and the gradient's norm before it is clipped.

        Raises `UserError` when a loss or the gradient is not finite, before anything is updated.
        """
        state = self.state
        state.optimiser.zero_grad(set_to_none=True)
        terms = self._backward(batches)
        state.scaler.unscale_(state.optimiser)
        norm = nn.utils.clip_grad_norm_(self.trainable, self.max_norm)
        if not (state.scaler.is_enabled() or norm.isfinite()):  # float16's overflows are the scaler's business
            raise DivergedElsewhereError(f"iteration {state.step + 1}: a gradient is not finite; lower training.lr")
        state.scaler.step(state.optimiser)
        torch.autograd.graph.increment_version(self.trainable)  # what fused AdamW leaves out, and caches go by
        state.scaler.update()
        state.schedule.step()
        state.step += 1
        return terms, norm
