"""How the program ends: signals, logs of libraries, one last line, and a traceback in a file.

This package is imported first, so it imports only the standard library.
"""
