"""Metadata that only the place of a build knows: the addresses of the repository and the site.

The repository may be forked and moved, so no address stands in it. The workflows set
`REPOSITORY_URL`; a build elsewhere has no addresses.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryAddresses(MetadataHookInterface):
    """Fills in `project.urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the addresses to a project's metadata."""
        metadata["urls"] = urls(os.environ.get("REPOSITORY_URL", ""))


def urls(repository: str) -> dict[str, str]:
    """Returns the addresses to list on PyPI.

    Args:
        repository: such as `https://github.com/OWNER/NAME`; empty: unknown.
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
