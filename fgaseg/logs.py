"""What the project's commands say while they work."""

import logging
import os

_SAID_ELSEWHERE = ("No pretrained weights loaded", "Failed to download weights")
"""How open_clip's messages begin that would tell the user nothing, or the same a second time."""


def set_up_logs() -> None:
    """The project's own messages from INFO on, others' from WARNING on, on standard error.

    Of a download that fails, the one line that the command ends with is enough: Hugging Face's client warns of each retry.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("fgaseg").setLevel(logging.INFO)
    logging.getLogger("root").addFilter(lambda record: not record.getMessage().startswith(_SAID_ELSEWHERE))
