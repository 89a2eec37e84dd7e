"""The one exception for what a person gave wrong."""


class UserError(ValueError):
    """What the user gave is wrong; the message says what was found, where, what is allowed, what to do.

    Commands print the message and exit with code 2, without a traceback. Several faults found together stand in
    one message.
    """
