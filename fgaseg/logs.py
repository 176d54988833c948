"""What the project's commands say while they work."""

import logging

_SAID_ELSEWHERE = ("No pretrained weights loaded", "Failed to download weights")
"""How open_clip's messages begin that would tell the user nothing, or the same a second time."""


def set_up_logs() -> None:
    """The project's own messages from INFO on, others' from WARNING on, on standard error."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("fgaseg").setLevel(logging.INFO)
    logging.getLogger("root").addFilter(lambda record: not record.getMessage().startswith(_SAID_ELSEWHERE))
