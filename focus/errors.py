"""The exceptions for what a user can mend."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what was got, where, and what to do. The programs print it as a
    single line and exit with code 2; a traceback is shown with ``--debug`` only.
    """


class ImageError(InputError):
    """An image that cannot be used, found in the midst of a run.

    Of several processes only one has it, so whichever that is prints the line.
    """
