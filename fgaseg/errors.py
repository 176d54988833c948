"""The error that a user can mend."""


class UserError(ValueError):
    """A mistake in the input: one line that says what is wrong, where, and what to do about it."""
