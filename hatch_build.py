"""Adds the repository's addresses to the package metadata at build time.

The addresses are not written in the repository, because it may be forked or moved. The workflows
set `REPOSITORY_URL`; without that variable, a package has no addresses.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryAddresses(MetadataHookInterface):
    """Metadata hook of hatch that fills in `project.urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the addresses to a project's metadata."""
        metadata["urls"] = urls(os.environ.get("REPOSITORY_URL", ""))


def urls(repository: str) -> dict[str, str]:
    """Returns the addresses to list on PyPI, by their labels.

    Args:
        repository: address such as `https://github.com/OWNER/NAME`; empty: unknown.
    """
    repository = repository.rstrip("/")
    if not repository:
        return {}
    files = f"{repository}/blob/main"
    return {
        "Source": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{files}/CHANGELOG.md",
        "Story of the family": f"{files}/docs/story.md",
        "中文": f"{files}/README.zh.md",
    }
