"""Train one run: from its parameters to `model.safetensors`."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from fgaseg.errors import UserError
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.prompts import tokenise
from fgaseg.model.t2p import t2p_loss
from fgaseg.schema import Decoder, Params, Training
from fgaseg.training.metrics import MetricsFile
from fgaseg.training.state import TrainingState
from fgaseg.training.stream import IGNORE, TrainingStream

_NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm2d)


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
    """AdamW with a cosine schedule to zero over all iterations, at step 0."""
    optimiser = torch.optim.AdamW(parameter_groups(model, params), lr=params.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / params.iterations))
    )
    return TrainingState(model, optimiser, schedule)


def segmentation_loss(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Equation 12 on logits (B, K, L, L) resized to the labels (B, S, S): cross-entropy, or the released code's BCE.

    Pixels without a label count in neither.
    """
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    valid = labels != IGNORE
    count = valid.sum().clamp(min=1)
    if loss == "ce":
        return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / count
    target = F.one_hot(labels.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2).to(logits)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * valid[:, None]).sum() / (count * logits.shape[1])


def auxiliary_loss(heads: Sequence[Tensor], labels: Tensor, loss: str, decoder: Decoder) -> Tensor:
    """The fast decoder's term of equation 13: the loss of each head's logits, weighted and summed."""
    first, *others = (segmentation_loss(logits, labels, loss) for logits in heads)
    rest = torch.stack(others).sum()
    return decoder.aux_weight * first + (decoder.aux_weight if decoder.aux_weighting == "all" else 1.0) * rest


def losses(model: FGAseg, images: Tensor, labels: Tensor, tokens: Tensor, params: Params) -> dict[str, Tensor]:
    """The sum `loss` (equation 13) and its terms: `loss_seg`, `loss_t2p` before its weight, `loss_aux` as it is added."""
    output = model(images, model.clip.encode_text(tokens))
    terms = {"loss_seg": segmentation_loss(output.logits, labels, params.training.loss)}
    total = terms["loss_seg"]
    if output.alignment is not None:
        terms["loss_t2p"] = t2p_loss(output.alignment, labels, IGNORE, params.model.t2p.loss)
        total = total + params.model.t2p.weight * terms["loss_t2p"]
    if output.auxiliary:
        terms["loss_aux"] = auxiliary_loss(output.auxiliary, labels, params.training.loss, params.model.decoder)
        total = total + terms["loss_aux"]
    return {"loss": total, **terms}


def _batches(stream: TrainingStream, params: Training, start: int, workers: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    order = range(start * params.global_batch, params.iterations * params.global_batch)
    loader: Iterable[tuple[Tensor, Tensor, list[str]]] = DataLoader(
        stream, params.global_batch, sampler=order, num_workers=workers
    )
    try:
        yield from loader
    except UserError as error:  # a loader process puts its stack trace before the message
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("fgaseg.errors.UserError: ")) from None


def _check_finite(terms: dict[str, Tensor], step: int, names: list[str]) -> None:
    for name, value in terms.items():
        if name != "loss" and not math.isfinite(value.item()):
            raise UserError(
                f"iteration {step}: {name} is {value.item()}; images: {', '.join(names)}; "
                "look at these images, or lower training.lr"
            )


def train(
    state: TrainingState,
    stream: TrainingStream,
    names: list[str],
    params: Params,
    metrics: MetricsFile,
    *,
    log_every: int,
    checkpoint: Callable[[], None],
    checkpoint_seconds: float,
    validate: Callable[[], float],
    workers: int = 0,
) -> None:
    """Run the iterations that `state` still lacks, on the device of its model.

    `checkpoint` is called at the first iteration after every `checkpoint_seconds`, `validate` every
    `validate_every` iterations and after the last. Raises `UserError` when a loss is not finite.
    """
    model, t = state.model, params.training
    assert isinstance(model, FGAseg)
    device = model.clip.logit_scale.device
    tokens = tokenise(names, params.vlm.prompts, params.vlm.architecture).to(device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.train()
    saved = window_start = time.monotonic()
    window_steps = 0
    terminal = sys.stderr.isatty()
    with tqdm(total=t.iterations, initial=state.step, unit="it", mininterval=0.5 if terminal else 15.0, ncols=100) as bar:
        for images, labels, files in _batches(stream, t, state.step, workers):
            terms = losses(model, images.to(device), labels.to(device), tokens, params)
            _check_finite(terms, state.step + 1, files)
            state.optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(trainable, t.max_norm)
            state.optimiser.step()
            state.schedule.step()
            state.step += 1
            window_steps += 1
            bar.update()
            bar.set_postfix(loss=f"{terms['loss'].item():.3f}", refresh=False)
            if state.step % log_every == 0 or state.step == t.iterations:
                speed = (time.monotonic() - window_start) / window_steps
                values = {name: term.item() for name, term in terms.items()}
                lr = t.lr * state.schedule.get_last_lr()[0] / state.schedule.base_lrs[0]
                metrics.append(
                    state.step, {**values, "grad_norm": norm.item(), "lr": float(lr), "seconds_per_iteration": speed}
                )
                window_start, window_steps = time.monotonic(), 0
            if state.step % t.validate_every == 0 or state.step == t.iterations:
                model.eval()
                metrics.append(state.step, {"validation_miou": validate()})
                model.train()
                window_start, window_steps = time.monotonic(), 0
            if time.monotonic() - saved >= checkpoint_seconds and state.step < t.iterations:
                checkpoint()
                saved = time.monotonic()
