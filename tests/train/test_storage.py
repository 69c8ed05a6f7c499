"""Tests local paths, and bucket paths without a server; `test_buckets.py` starts a server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from inception_jax import folders
from tests.helpers.written_images import write_folder
from train import storage
from train.data import bucket_walk
from train.errors import UsageError


def test_a_local_path_is_a_path():
    assert storage.place("runs/a") == Path("runs/a")
    assert not storage.is_remote("runs/a")
    assert storage.absolute(Path("a")) == Path.cwd() / "a"


@pytest.mark.parametrize("text", ["gs://", "gs:///a", "s3://", "http://host/a", "file:///a"])
def test_other_addresses_are_refused(text):
    with pytest.raises(UsageError, match="gs://BUCKET/FOLDER"):
        storage.place(text)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_what_is_missing_is_named_with_its_extra(monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=package):
        storage.place(f"{scheme}://bucket/a")


def test_a_bucket_lists_what_a_folder_lists(tmp_path, monkeypatch):
    """A bucket gives the same images, classes and skipped files as a folder, in the same order."""
    root = write_folder(tmp_path / "d", {"train": {"b": 3, "a": 2}, "val": {"a": 1}})
    for name in ("train/a/deep/er/x.JPG", "train/a/.hidden.jpg", "train/.git/y.jpg",
                 "train/b/notes.txt", "train/readme", "train/b/.cache/z.png"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    remote = "gs://bucket/d"

    def sizes(folder: str) -> dict[str, int]:
        there = root / os.fspath(folder)[len(remote) :].lstrip("/")
        files = [path for path in there.rglob("*") if path.is_file()]
        return {path.relative_to(there).as_posix(): path.stat().st_size for path in files}

    monkeypatch.setattr(bucket_walk.storage, "sizes", sizes)
    local = folders.Walk(root / "train", named_from=root)
    bucket = bucket_walk.BucketWalk(f"{remote}/train", named_from=remote)
    assert bucket.subfolders(f"{remote}/train") == local.subfolders(root / "train") == ["a", "b"]
    for name in ("a", "b"):
        here = [
            Path(path).relative_to(root).as_posix() for path in local.images(root / "train" / name)
        ]
        there = bucket.images(f"{remote}/train/{name}")
        assert [path.removeprefix(f"{remote}/") for path in there] == here
        assert len(here) == 3
    assert str(bucket.passed_over) == str(local.passed_over)
    assert bucket.passed_over.total == local.passed_over.total > 0


def test_a_local_log_is_written_line_by_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("a\n")
    log = storage.Log(path)
    log.append("b")
    assert path.read_text() == "a\nb\n"


def test_a_local_mirror_is_the_folder_itself(tmp_path):
    mirror = storage.Mirror(tmp_path)
    (mirror.folder / "a").write_text("a")
    mirror.close()
    assert (tmp_path / "a").read_text() == "a"


def test_a_lock_is_created_once(tmp_path):
    assert storage.create(tmp_path / "lock", "a")
    assert not storage.create(tmp_path / "lock", "b")
    assert (tmp_path / "lock").read_text() == "a"
