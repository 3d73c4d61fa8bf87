"""The error that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Bad input from the user: a file, a flag or a config value.

    The message is one line that names the value, what was expected and where it came from.
    The command line prints it and exits with status 2; anything else is a bug and keeps its
    traceback.
    """
