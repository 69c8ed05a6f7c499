"""Defines the layers and operations that networks share. Reads no files; contains no network."""
