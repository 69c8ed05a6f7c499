"""Layers and operations that all networks share; nothing here reads files or knows a network."""
