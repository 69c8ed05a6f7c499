"""How the program ends: signals, libraries' logs, one last line, and a trace in a file.

Imported before anything slow, so nothing here imports more than the standard library.
"""
