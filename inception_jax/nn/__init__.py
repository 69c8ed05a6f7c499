"""Layers and operations: no names of networks, no files."""
