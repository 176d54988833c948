"""The error that a user can mend."""


class UserError(ValueError):
    """A mistake in the input: one line that says what is wrong, where, and what to do about it.

    What it repeats of the input cannot break the line, or tell a terminal anything: such characters are spelt out.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
