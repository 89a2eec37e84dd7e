"""UserError: the exception for wrong input."""


class UserError(ValueError):
    """Wrong input; the message says what was found, where, what is allowed, and what to do.

    Commands print the message and exit with code 2, without a traceback. One message lists all faults that were found
    together.
    """
