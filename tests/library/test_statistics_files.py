"""Tests statistics files of this library and of other programs.

The origin of statistics says how the features were computed, see `metrics.Origin`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import inception_jax as ij
from inception_jax import metrics
from inception_jax.metrics.image_arrays import StoredImages
from inception_jax.metrics.origin import fingerprint
from tests.helpers.metric_sets import extractor, network, pictures, random_features

ORIGIN = metrics.Origin("adm", "bilinear_tf1", 2048, "sha256:" + 64 * "a")


def statistics(n: int = 9, origin: metrics.Origin | None = ORIGIN) -> metrics.Statistics:
    spatial = metrics.Statistics.of(random_features(n, 3, 1))
    found = metrics.Statistics.of(random_features(n, 4, 0))
    return dataclasses.replace(found, origin=origin, spatial=spatial)


def test_statistics_files_are_pytorch_fids(tmp_path):
    found = metrics.Statistics.of(random_features(9, 4, 0))
    found.save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        np.testing.assert_array_equal(file["mu"], found.mean)
        np.testing.assert_array_equal(file["sigma"], found.cov)
    again = metrics.Statistics.load(tmp_path / "ours.npz")
    assert again.count == 9
    np.testing.assert_array_equal(again.cov, found.cov)
    np.savez_compressed(tmp_path / "theirs.npz", mu=found.mean, sigma=found.cov)
    theirs = metrics.Statistics.load(tmp_path / "theirs.npz")
    assert theirs.count is None
    theirs.save(tmp_path / "ours.npz")  # over the old file
    assert metrics.Statistics.load(tmp_path / "ours.npz").count is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.npz", "theirs.npz"]
    with pytest.warns(UserWarning, match="does not say which program") as caught:
        found = metrics.fid(tmp_path / "ours.npz", str(tmp_path / "theirs.npz"))
    assert [
        str(tmp_path / name) in str(w.message)
        for name, w in zip(("ours.npz", "theirs.npz"), caught, strict=True)
    ] == [True, True]
    assert found == pytest.approx(0, abs=1e-9)


def test_statistics_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        metrics.Statistics.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "images.npz", arr_0=pictures(2))
    with pytest.raises(ValueError, match=r"images\.npz holds arr_0 instead.*as an array"):
        metrics.Statistics.load(tmp_path / "images.npz")
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"wrong\.npz: the mean must"):
        metrics.Statistics.load(tmp_path / "wrong.npz")
    np.savez(tmp_path / "object.npz", mu=np.array([{}]), sigma=np.eye(4))
    whole = (tmp_path / "wrong.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("object", "cut", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is not a whole \.npz file"):
            metrics.Statistics.load(tmp_path / f"{name}.npz")
    found = metrics.Statistics.of(random_features(9, 4, 0))
    for path, words in [("x.npy", r"\.npz"), ("no/x.npz", "no folder"), ("d.npz", "is a folder")]:
        (tmp_path / "d.npz").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=words):
            found.save(tmp_path / path)


# Layouts


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("pytorch_fid", ["mu", "sigma", "mu_s", "sigma_s"]),
        ("clean", ["mu", "sigma", "mu_s", "sigma_s"]),
        ("adm", ["mu", "sigma", "mu_s", "sigma_s"]),
        ("jax", ["ref_mu", "ref_sigma", "mu_s", "sigma_s"]),
    ],
)
def test_layouts_hold_what_their_programs_read(layout, names, tmp_path):
    found = statistics()
    found.save(tmp_path / "x.npz", layout=layout)
    with np.load(tmp_path / "x.npz") as file:
        assert file.files[:4] == names
        assert found.spatial is not None
        for name, array in zip(
            names, (found.mean, found.cov, found.spatial.mean, found.spatial.cov), strict=True
        ):
            np.testing.assert_array_equal(file[name], array)
    again = metrics.Statistics.load(tmp_path / "x.npz")
    assert (again.origin, again.count) == (ORIGIN, 9)
    assert again.spatial is not None
    np.testing.assert_array_equal(again.cov, found.cov)
    np.testing.assert_array_equal(again.spatial.cov, found.spatial.cov)


def test_layouts_that_are_refused(tmp_path):
    plain = dataclasses.replace(statistics(), spatial=None)
    with pytest.raises(ValueError, match=r"mu_s|spatial statistics.*preset='adm'"):
        plain.save(tmp_path / "x.npz", layout="adm")
    with pytest.raises(ValueError, match=r"layout must be one of .*did you mean clean"):
        plain.save(tmp_path / "x.npz", layout="cleanfid")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_files_of_others_have_no_origin(names, tmp_path):
    """Files of other programs load without an origin, including float32 files of JAX projects."""
    found = statistics()
    arrays = dict(zip(names, (np.float32(found.mean), np.float32(found.cov)), strict=True))
    np.savez(tmp_path / "x.npz", **arrays)
    again = metrics.Statistics.load(tmp_path / "x.npz")
    assert (again.origin, again.count, again.spatial) == (None, None, None)
    np.testing.assert_allclose(again.mean, found.mean, rtol=1e-6)


# Origins


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", "tf2015"),
        ("resize", "bilinear_torch"),
        ("dims", 768),
        ("weights", "sha256:" + 64 * "b"),
    ],
)
def test_statistics_of_different_origins_are_refused(field, value, tmp_path, nothing_computed):
    """Statistics of different origins are refused before the network is loaded.

    The error names both origins.
    """
    other = dataclasses.replace(ORIGIN, **{field: value})
    for name, origin in (("a", ORIGIN), ("b", other)):
        statistics(origin=origin).save(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match=f"of different {field} ") as error:
        metrics.fid(tmp_path / "a.npz", tmp_path / "b.npz", weights="absent.pth")
    for name, origin in (("a", ORIGIN), ("b", other)):
        assert f"{name}.npz has {origin}" in str(error.value)
    features = [metrics.Features(random_features(9, 4, 0), origin=o) for o in (ORIGIN, other)]
    for metric in (metrics.kid, metrics.precision_recall):
        with pytest.raises(ValueError, match=f"of different {field} "):
            metric(*features)


def test_a_file_of_another_preset_is_refused_before_an_image_is_computed(
    tmp_path, nothing_computed
):
    origin = extractor().origin
    assert origin.preset == "pytorch_fid"
    width = extractor().width
    found = metrics.Statistics.of(random_features(9, width, 0))
    dataclasses.replace(found, origin=dataclasses.replace(origin, preset="adm")).save(
        tmp_path / "x.npz"
    )
    words = r"different preset .*x\.npz has preset adm.*the other input has preset pytorch_fid"
    with pytest.raises(ValueError, match=words):
        metrics.fid(pictures(9), tmp_path / "x.npz", extractor=extractor())


def test_statistics_and_features_say_their_origin(tmp_path):
    one = extractor(preset="torch_fidelity", resize="bilinear_torch", dims=64)
    expected = metrics.Origin("torch_fidelity", "bilinear_torch", 64, fingerprint(network(), 64))
    assert one.features(pictures(3)).origin == expected
    one.statistics(pictures(3)).save(tmp_path / "x.npz")
    assert metrics.Statistics.load(tmp_path / "x.npz").origin == expected


def test_fingerprints_are_of_the_numbers_that_features_depend_on(tmp_path):
    model = network()
    ij.save_weights(model, tmp_path / "x.safetensors")
    again = ij.load(tmp_path / "x.safetensors")
    assert fingerprint(again, 2048) == fingerprint(model, 2048)
    again.fc.kernel[...] += 1  # the features do not depend on it
    assert fingerprint(again, 2048) == fingerprint(model, 2048)
    again.Mixed_7c.branch_pool.bn.mean[...] += 1e-3
    assert fingerprint(again, 2048) != fingerprint(model, 2048)
    assert fingerprint(again, 768) == fingerprint(model, 768)
    again.Conv2d_1a_3x3.conv.kernel[...] *= 2
    assert len({fingerprint(m, d) for m in (again, model) for d in (64, 192, 768)}) == 6


# Arrays of images in files


def test_arrays_of_images_in_files(tmp_path):
    images = pictures(5)
    expected = extractor().features(images).pooled
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "by_column.npy", np.asfortranarray(images))
    np.savez(tmp_path / "b.npz", arr_0=images, arr_1=np.arange(5))
    np.savez_compressed(tmp_path / "c.npz", images)
    for name in ("a.npy", "by_column.npy", "b.npz", "c.npz"):
        found = extractor().features(tmp_path / name).pooled
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
        assert extractor().open(tmp_path / name).count == 5


def test_large_arrays_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("inception_jax.metrics.image_arrays._CHUNK", 3 * 60 * 70 * 3)
    images = pictures(7)
    np.savez_compressed(tmp_path / "x.npz", images)
    parts = list(StoredImages(tmp_path / "x.npz", "arr_0"))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), images)


def test_a_file_of_statistics_and_images(tmp_path):
    """A file may hold statistics and images, as guided-diffusion's references do.

    FID uses the statistics; other metrics use the images.
    """
    found = statistics()
    images = pictures(5)
    np.savez(tmp_path / "x.npz", mu=found.mean, sigma=found.cov, arr_0=images)
    with pytest.warns(UserWarning, match="does not say"):
        opened = extractor().open(tmp_path / "x.npz")
    np.testing.assert_array_equal(extractor().statistics(opened).cov, found.cov)
    pooled = extractor().features(opened).pooled
    np.testing.assert_array_equal(pooled, extractor().features(images).pooled)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4, 4, 3), np.float32), r"x\.npz|uint8 from 0 to 255.*float32"),
        (np.zeros((3, 4, 4), np.uint8), r"x\.npz: an array of images.*\[3, 4, 4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "at least two"),
        (np.array([{}]), "Python objects|whole"),
    ],
)
def test_arrays_that_are_no_images(array, words, tmp_path, nothing_computed):
    np.savez(tmp_path / "x.npz", arr_0=array)
    with pytest.raises(ValueError, match=words):
        metrics.fid(tmp_path / "x.npz", pictures(3), extractor=extractor())


def test_cut_files_of_images(tmp_path):
    np.save(tmp_path / "x.npy", pictures(5))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"x\.npy ends before its last image"):
        extractor().features(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"x\.npy is damaged or holds no array"):
        extractor().features(tmp_path / "x.npy")
