"""What a user can get wrong, and what a run can die of. `run.py` prints these as one sentence, without a traceback."""


class UserError(ValueError):
    """A mistake in a config, a command, or the data: says what is wrong, where, and what would be right."""

    exit_code = 2


class Diverged(RuntimeError):
    """The loss stopped being finite."""

    exit_code = 1
