"""What is trained of CLIP (Table VII)."""

from typing import Literal, cast

from fgaseg.model.clip import DenseCLIP, SplitAttention

Strategy = Literal["attention", "full", "prompt-16", "frozen"]


def apply_tuning(clip: DenseCLIP, strategy: Strategy) -> None:
    """Mark the parameters of `clip` that train under `strategy`; all others are frozen.

    `attention` trains the weights of the query and value projections of every attention layer in both encoders,
    `full` trains both transformers wholly, `prompt-16` adds 16 tokens to the image encoder's layers and trains
    these alone, `frozen` trains nothing.
    """
    clip.requires_grad_(False)
    if strategy.startswith("prompt-"):
        clip.add_visual_prompts(int(strategy.removeprefix("prompt-")))
    for block in clip.blocks():
        if strategy == "full":
            block.requires_grad_(True)
        elif strategy == "attention":
            attention = cast(SplitAttention, block.attn)
            attention.q_proj.weight.requires_grad_(True)
            attention.v_proj.weight.requires_grad_(True)
