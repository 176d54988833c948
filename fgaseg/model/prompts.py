"""From class names to tokens."""

from collections.abc import Sequence
from functools import lru_cache

import open_clip
import torch
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.model.clip import register_architectures


@lru_cache
def tokenizer(architecture: str) -> open_clip.SimpleTokenizer:
    """The tokenizer that open_clip pairs with the architecture."""
    register_architectures()
    return open_clip.get_tokenizer(architecture)


def tokenise(names: Sequence[str], templates: Sequence[str], architecture: str) -> Tensor:
    """Class names -> prompts (K, P, L), cut to the longest of them.

    A template has one `{}` for the name. Raises `UserError` for an empty list, an empty name, and a prompt that is longer
    than the text encoder reads.
    """
    if not names:
        raise UserError("the list of classes is empty: name at least one class")
    encode = tokenizer(architecture)
    longest = encode.context_length
    if longest is None:
        raise UserError(f"vlm.architecture: the tokenizer of {architecture} states no context length")
    for name in names:
        if not name.strip():
            raise UserError("a class name is empty: remove it or write a name")
        for template in templates:
            length = len(encode.encode(template.format(name))) + 2
            if length > longest:
                raise UserError(
                    f"class name '{name[:40]}...' makes a prompt of {length} tokens; {architecture} reads {longest}: shorten it"
                )
    prompts = encode([template.format(name) for name in names for template in templates])
    length = int(prompts.argmax(1).max()) + 1  # the end token has the highest id; 0, what follows it, is also that of '!'
    return prompts[:, :length].view(len(names), len(templates), length).to(torch.long)
