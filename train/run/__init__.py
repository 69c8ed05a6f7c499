"""Parses the command line, assembles a run from the options, and executes it."""
