"""Adds the project's URLs to the package metadata at build time.

The URLs are derived from the environment variable `REPOSITORY_URL`, which the GitHub workflows set.
They are not written in the repository, because it may be forked or moved. Without the variable, a
package has no URLs.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryAddresses(MetadataHookInterface):
    """Hatch metadata hook that fills in `project.urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets `metadata["urls"]` in place, from the environment variable `REPOSITORY_URL`."""
        metadata["urls"] = urls(os.environ.get("REPOSITORY_URL", ""))


def urls(repository: str) -> dict[str, str]:
    """Returns the URLs to list on PyPI, by label; an empty dict if the repository is unknown.

    They are the source, the issues, the changelog, the story and the Chinese README.

    Args:
        repository: URL such as `https://github.com/OWNER/NAME`; empty if unknown.
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
