"""Errors that end the program with one line and an exit code."""


class UsageError(Exception):
    """The command is invalid: exit code 2."""


class TrainingError(Exception):
    """Training cannot continue: exit code 1."""
