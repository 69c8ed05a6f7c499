"""Ends the program: handles signals, writes logs and tracebacks to a file, prints a last line.

This package is imported first, so it imports only the standard library.
"""
