"""Errors that end the program with one line and an exit code."""


class UsageError(Exception):
    """The command cannot be carried out as given: exit code 2."""


class TrainingError(Exception):
    """Training cannot go on: exit code 1."""
