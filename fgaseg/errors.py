"""The error that a user can mend."""


class UserError(ValueError):
    """A mistake in the input: one line that says what is wrong, where, and what to do about it."""


def one_line(error: Exception) -> str:
    """What an error says, as one printable line.

    What it repeats of the input cannot break the line, or tell a terminal anything: such characters are spelt out.
    """
    text = " ".join(str(error).splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
