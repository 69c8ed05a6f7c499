"""Tests `benchmarks/gpu.py` on a CPU: all measurements run, and an interrupted run resumes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("tyro")
from benchmarks import gpu
from benchmarks.stored import save, saved


def test_results_of_another_setting_are_refused(tmp_path):
    path = tmp_path / "runs" / "gpu.json"
    assert saved(path, {"card": "A"}) == {}
    save(path, {"card": "A"}, {"fid": {"images_per_second": [1.0]}})
    assert saved(path, {"card": "A"}) == {"fid": {"images_per_second": [1.0]}}
    with pytest.raises(SystemExit, match="--results"):
        saved(path, {"card": "B"})


def test_a_part_after_the_time_limit_is_left_to_the_next_command(tmp_path, monkeypatch, capsys):
    measured = []

    def part(key):
        return lambda: measured.append(key) or {"images_per_second": [2.0], "images": "4"}

    monkeypatch.setattr(gpu, "parts_of", lambda *_: [("fid", part("fid")), ("x y", part("x y"))])
    options = gpu.Options(smoke=True, results=tmp_path / "gpu.json", docs=tmp_path, minutes=0)
    gpu.main(options)
    assert measured == []
    assert "2 of 2 parts are missing" in capsys.readouterr().out
    save(options.results, gpu.setting_of(options), {"fid": part("fid")()})
    measured.clear()
    gpu.main(gpu.Options(smoke=True, results=tmp_path / "gpu.json", docs=tmp_path))
    assert measured == ["x y"]
    assert "missing" not in capsys.readouterr().out


def test_a_part_that_was_late_is_tried_again_with_more_time(tmp_path, monkeypatch, capsys):
    def late():
        raise gpu.LateError("not ready after 1.0 minutes")

    def quick():
        return {"images_per_second": [2.0], "images": "4"}

    options = gpu.Options(smoke=True, results=tmp_path / "gpu.json", docs=tmp_path)
    monkeypatch.setattr(gpu, "parts_of", lambda *_: [("fid", quick), ("x y", late)])
    gpu.main(options)
    assert "1 of 2 parts are missing" in capsys.readouterr().out
    gpu.main(options)  # the second try has the whole time, and fails too
    out = capsys.readouterr().out
    assert "x y: not ready after 1.0 minutes" in out
    assert "missing" not in out


@pytest.mark.slow
def test_everything_runs_to_its_end_on_a_cpu(tmp_path, capsys):
    results = tmp_path / "gpu.json"
    options = gpu.Options(
        archs=("inception_v1",),
        batch_size=2,
        rounds=1,
        minutes=60,
        results=results,
        smoke=True,
        docs=tmp_path,
    )
    gpu.main(options)
    done = json.loads(results.read_text())["done"]
    assert len(done["speed inception_v1 training bfloat16"]["images_per_second"]["ours"]) == 1
    assert done["memory inception_v1"]["compiler"] > 0
    assert max(done["parity inception_v1"].values()) < 1e-4
    assert done["determinism default"]["equal"]
    assert done["determinism deterministic"]["equal"]
    assert done["fid"]["images_per_second"][0] > 0
    assert "missing" not in capsys.readouterr().out
