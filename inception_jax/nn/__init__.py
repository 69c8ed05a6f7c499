"""Layers and operations that all networks share; nothing here reads files or defines a network."""
