"""Declares, checks and parses options; contains the recipes."""
