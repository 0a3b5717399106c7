"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what was got, where, and what to do. The programs print it as a
    single line and exit with code 2; a traceback is shown with ``--debug`` only.
    """
