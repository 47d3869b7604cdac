"""The one kind of error that the reader is meant to see as a single line."""


class BookError(Exception):
    """Bad input or a refusing disk: the message says what was given, what is allowed and what to do."""
