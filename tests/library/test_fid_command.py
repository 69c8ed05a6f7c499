"""Tests `inception-jax fid`."""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np
import pytest

import inception_jax as ij
from inception_jax import metrics
from inception_jax.cli import fid as command
from tests.helpers import tiny
from tests.helpers.metric_sets import extractor, network, pictures, random_features, write


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    ij.save_weights(network(), path)
    return path


def run(capsys, *argv) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    code = command.run(parser.parse_args([str(word) for word in argv]))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.filterwarnings("ignore:.*images for 256 features", "ignore:KID uses subsets")
def test_command(capsys, tmp_path, weights):
    a, b = write(tmp_path / "a", pictures(11)), write(tmp_path / "b", pictures(11, seed=1, low=90))
    options = ["--weights", weights, "--batch-size", 11]
    code, out, err = run(capsys, a, b, "--metrics", "fid,kid,is,pr", *options)
    assert code == 0
    assert "11/11" in err  # the progress bar
    found = dict(line.split("  ") for line in out.splitlines())
    assert list(found) == ["preset", "FID", "KID", "IS", "precision", "recall", "F-score"]
    assert found["preset"].startswith("pytorch_fid, bilinear_torch, weights ")
    features = [extractor().features(x) for x in (a, b)]
    assert float(found["FID"]) == pytest.approx(metrics.fid(*features), rel=1e-4)
    assert float(found["KID"]) == pytest.approx(metrics.kid(*features).mean, rel=1e-3)
    expected = metrics.inception_score(features[0])
    assert [float(x) for x in found["IS"].split(" ± ")] == pytest.approx(expected, rel=1e-2)

    saved = ["--save-stats", tmp_path / "b.npz", "--dims", 64, "--no-progress"]
    code, out, err = run(capsys, b, *saved, *options)
    assert (code, out, err) == (0, f"wrote {tmp_path / 'b.npz'}\n", "")
    expected = extractor(dims=64).statistics(b).cov
    found = metrics.Statistics.load(tmp_path / "b.npz").cov
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for 256 features", "ignore:KID uses subsets")
def test_json_holds_everything(capsys, tmp_path, weights):
    a, b = write(tmp_path / "a", pictures(11)), write(tmp_path / "b", pictures(12, seed=1, low=90))
    options = ["--weights", weights, "--no-progress", "--metrics", "fid,kid,pr"]
    options += ["--preset", "torch_fidelity", "--json"]
    _, out, _ = run(capsys, a, b, *options, "-")
    found = json.loads(out)
    origin = extractor(preset="torch_fidelity").origin
    assert found["preset"] == "torch_fidelity"
    assert found["resize"] == "bilinear_tf1"
    assert found["dims"] == 2048
    assert found["weights"] == origin.weights
    assert found["program"] == "torch-fidelity 0.4.0"
    assert found["inception_jax"] == ij.__version__
    assert found["a"] == {"source": str(a), "images": 11}
    assert found["b"] == {"source": str(b), "images": 12}
    values = found["metrics"]
    assert list(values) == ["fid", "kid", "precision", "recall", "f_score"]
    expected = metrics.fid(a, b, extractor=extractor(preset="torch_fidelity"))
    assert values["fid"] == pytest.approx(expected, rel=1e-4)
    assert list(values["kid"]) == ["mean", "std"]
    _, out, _ = run(capsys, a, b, *options, tmp_path / "x.json")
    assert "FID  " in out
    again = json.loads((tmp_path / "x.json").read_text())
    assert again["metrics"]["fid"] == pytest.approx(values["fid"], rel=1e-4)
    assert {**again, "metrics": None} == {**found, "metrics": None}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for 256 features")
def test_adm_prints_what_the_evaluator_prints(capsys, tmp_path, weights):
    a, b = pictures(11), pictures(12, seed=1, low=90)
    np.savez(tmp_path / "a.npz", arr_0=a)
    np.savez(tmp_path / "b.npz", arr_0=b)
    options = ["--weights", weights, "--no-progress", "--preset", "adm"]
    _, out, _ = run(capsys, tmp_path / "a.npz", tmp_path / "b.npz", *options)
    found = dict(line.split("  ") for line in out.splitlines())
    assert list(found)[1:] == ["IS", "FID", "sFID", "precision", "recall", "F-score"]
    expected = metrics.sfid(a, b, extractor=extractor(preset="adm"))
    assert float(found["sFID"]) == pytest.approx(expected, rel=1e-3)

    # With a reference of statistics only, metrics that need images are skipped, with a note.
    run(capsys, tmp_path / "b.npz", *options, "--save-stats", tmp_path / "ref.npz")
    _, out, err = run(capsys, tmp_path / "a.npz", tmp_path / "ref.npz", *options)
    again = dict(line.split("  ") for line in out.splitlines())
    assert list(again)[1:] == ["IS", "FID", "sFID"]
    assert "these sources do not allow it: pr" in err
    assert float(again["sFID"]) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="statistics are enough for FID"):
        run(capsys, tmp_path / "a.npz", tmp_path / "ref.npz", *options, "--metrics", "pr")
    with pytest.raises(ValueError, match=r"different preset .*preset adm"):
        run(capsys, tmp_path / "a.npz", tmp_path / "ref.npz", *options[:3])


def test_files_of_two_presets_are_both_named(capsys, tmp_path, nothing_computed):
    origin = metrics.Origin("pytorch_fid", "bilinear_torch", 2048, "sha256:" + 64 * "a")
    clean = dataclasses.replace(origin, preset="clean", resize="bicubic_pillow")
    found = metrics.Statistics.of(random_features(9, 4, 0))
    for name, of in (("a", origin), ("b", clean), ("c", clean)):
        dataclasses.replace(found, origin=of).save(tmp_path / f"{name}.npz")
    a, b, c = (tmp_path / f"{name}.npz" for name in "abc")
    words = r"preset and resize .*a\.npz has preset pytorch_fid.*b\.npz has preset clean"
    for sources in ((a, b), (c, a, b)):
        with pytest.raises(ValueError, match=words):
            run(capsys, *sources)
    with pytest.raises(ValueError, match="the files were made with preset clean, not pytorch_fid"):
        run(capsys, b, c)


def test_command_says_what_is_wrong(capsys, tmp_path, nothing_computed):
    a = write(tmp_path / "a", pictures(5))
    for argv, words in [
        ([a], "second input"),
        ([a, tmp_path / "absent"], "no folder"),
        ([a, a, "--save-stats", "x.npz"], "leave out .*a"),
        ([a, "--save-stats", "x.npy"], r"x\.npy.*\.npz"),
        ([a, "--save-stats", tmp_path / "no" / "x.npz"], "no folder"),
        ([a, "--dims", "64", "--metrics", "is"], "--dims 2048"),
        ([a, a, "--weights", tmp_path / "absent.pth"], r"absent\.pth"),
        ([a, "--metrics", "is"], "5 images; the Inception Score.* needs at least 10"),
        ([a, a, "--metrics", "is"], "leave out .*a"),
        ([a, a, "--metrics", "sfid"], "only --preset adm"),
        ([a, a, "--preset", "clean", "--dims", "64"], "clean-fid offers 2048 features"),
        ([a, a, "--layout", "adm"], "--layout needs --save-stats"),
        ([a, "--save-stats", "x.npz", "--layout", "adm"], "--preset adm"),
        ([a, "--save-stats", "x.npz", "--json", "x.json"], "leave out --json"),
        ([a, a, "--json", tmp_path / "x.txt"], r"x\.txt: results end in \.json"),
    ]:
        with pytest.raises((ValueError, OSError), match=words):
            run(capsys, *argv)
    for argv in (
        ["--preset", "x"],
        ["--metrics", "fid,kip"],
        ["--batch-size", "0"],
        ["--resize", "x"],
    ):
        with pytest.raises(SystemExit):
            run(capsys, a, a, *argv)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for 256 features", "ignore:KID uses subsets")
def test_many_sets_against_one(capsys, tmp_path, weights):
    sets = [write(tmp_path / f"step{i}", pictures(6 + i, seed=i, low=30 * i)) for i in range(3)]
    real = write(tmp_path / "real", pictures(9, seed=9))
    options = ["--weights", weights, "--no-progress", "--metrics", "fid,kid"]
    _, out, _ = run(capsys, *sets, real, *options, "--json", tmp_path / "x.json")
    lines = out.splitlines()
    assert lines[1].split() == ["FID", "KID"]
    assert [line.split()[0] for line in lines[2:]] == [str(path) for path in sets]
    for line, path in zip(lines[2:], sets, strict=True):
        expected = metrics.fid(path, real, extractor=extractor())
        assert float(line.split()[1]) == pytest.approx(expected, rel=1e-4)
    found = json.loads((tmp_path / "x.json").read_text())
    assert [record["a"] for record in found] == [
        {"source": str(path), "images": 6 + i} for i, path in enumerate(sets)
    ]
    with pytest.raises(FileNotFoundError, match="absent"):
        run(capsys, *sets, tmp_path / "absent", real, *options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for 256 features")
def test_saved_features_serve_every_metric(capsys, tmp_path, weights, monkeypatch):
    a, b = write(tmp_path / "a", pictures(11)), write(tmp_path / "b", pictures(11, seed=1, low=90))
    options = ["--weights", weights, "--no-progress"]
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for folder, file in zip((a, b), files, strict=True):
        _, out, _ = run(capsys, folder, "--save-features", file, *options)
        assert out == f"wrote {file}\n"
    wanted = ["--metrics", "fid,is,pr,dc"]
    _, expected, _ = run(capsys, a, b, *options, *wanted)
    monkeypatch.setattr(metrics.Extractor, "_computed", None)  # no more image is computed
    _, found, _ = run(capsys, *files, *options, *wanted)
    for ours, theirs in zip(found.splitlines()[1:], expected.splitlines()[1:], strict=True):
        name, value = ours.split("  ")
        assert name == theirs.split("  ")[0]
        expected_value = float(theirs.split("  ")[1].split()[0])
        assert float(value.split()[0]) == pytest.approx(expected_value, rel=1e-3)
    with pytest.raises(ValueError, match=r"with preset pytorch_fid.*--preset pytorch_fid"):
        run(capsys, *files, *options, "--preset", "clean", "--metrics", "kid")
    _, found, _ = run(capsys, *files, "--no-progress")  # and no weights are needed
    assert found.splitlines()[0] == expected.splitlines()[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*images for 256 features")
def test_intervals_on_request(capsys, tmp_path, weights):
    a, b = write(tmp_path / "a", pictures(40)), write(tmp_path / "b", pictures(11, seed=1, low=90))
    options = ["--weights", weights, "--no-progress"]
    run(capsys, b, "--save-stats", tmp_path / "b.npz", *options)
    wanted = ["--metrics", "fid,fid_inf", "--bootstrap", "5"]
    _, out, _ = run(capsys, a, tmp_path / "b.npz", *wanted, *options)
    found = dict(line.split("  ") for line in out.splitlines())
    assert list(found)[1:] == ["FID", "FID, 95 %", "FID infinity"]
    low, high = map(float, found["FID, 95 %"].split(" to "))
    assert low < float(found["FID"]) < high
    features = extractor().features(a)
    expected = metrics.fid_infinity(features, metrics.Statistics.load(tmp_path / "b.npz"))
    assert float(found["FID infinity"].split(" ± ")[0]) == pytest.approx(expected.value, rel=1e-3)


def test_features_of_another_network_are_named(capsys, tmp_path):
    a, b = write(tmp_path / "a", pictures(5)), write(tmp_path / "b", pictures(6, seed=1))
    with tiny.registered():
        ij.save_weights(ij.create_model("tiny", num_classes=3), tmp_path / "tiny.safetensors")
        options = ["--features", "tiny", "--weights", tmp_path / "tiny.safetensors"]
        with pytest.warns(UserWarning, match="images for 32 features"):
            _, out, _ = run(capsys, a, b, *options, "--no-progress")
    assert out.splitlines()[0].startswith("preset  features of tiny, pytorch_fid, ")
    assert out.splitlines()[1].startswith("FID  ")


def test_saving_is_of_one_set(capsys, tmp_path, nothing_computed):
    a = write(tmp_path / "a", pictures(5))
    for argv, words in [
        ([a, a, "--save-features", "x.npz"], "--save-features takes one source: leave out .*a"),
        ([a, "--save-features", "x.txt"], r"x\.txt: features end in \.npz"),
        ([a, "--save-features", "x.npz", "--metrics", "kid"], "leave out --metrics"),
        ([a, a, "--metrics", "kid", "--bootstrap", "9"], "--bootstrap is for FID"),
        ([a, a, "--features", "tiny", "--dims", "64"], "leave out --dims"),
        ([a, "--features", "tiny", "--metrics", "is"], "is needs FID's network"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(capsys, *argv)
