"""Tests the analytical model of a training run's duration against numbers computed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.planning import (
    Options,
    estimate,
    exchange_ms,
    images_per_host,
    table,
    turning_points,
)

ROUND = Options(
    train_images=1_000_000, eval_images=100_000, epochs=10, epochs_per_evaluation=2,
    images_per_chip=100, largest_batch=10_000, images_small=50, ms_small=30, images_large=100,
    ms_large=50, step_scale=2, eval_share=0.5, exchange_mb=100, messages=100, link_gb_s=50,
    message_us=10, hop_us=1, slice_chips=64, network_gb_s=10, network_message_us=100,
    chips_per_host=4, host_cores=10, images_per_core=400, pipeline_share=0.5, image_kb=100,
    read_mb_s=300, state_mb=400, save_mb_s=200, save_stall_s=2, minutes_between_checkpoints=1,
    start_s=360, preemptions_per_hour=1, hard_share=0.5, replacement_s=1425,
)  # fmt: skip


def test_one_slice_by_hand():
    found = estimate(ROUND, 16)
    assert (found.batch, found.steps) == (1600, 6250)
    assert found.compute_ms == 100  # 2 x 50
    # 2 x 15/16 x 100 MB over two links of 50 GB/s: 1.875 ms; 100 messages of 10 us: 1 ms
    assert found.exchange_ms == pytest.approx(2.875)
    # 2,000 images/s decoded; 400 images a host
    assert found.input_ms == pytest.approx(200)
    assert found.step_ms == pytest.approx(200)
    assert found.limit == "decoding"
    assert found.train_h == pytest.approx(6250 * 0.2 / 3600)
    # 4 hosts with 2,000 images/s are slower than 1,600 in 50 ms; 5 evaluations
    assert found.eval_h == pytest.approx(5 * 100_000 / 8000 / 3600)
    # 1,250 s of training, a checkpoint every 60, 2 s each
    assert found.save_h == pytest.approx(1250 / 60 * 2 / 3600)
    # 1,800 s an interruption, 1/16 an hour, and the start
    useful = found.train_h + found.eval_h + found.save_h
    assert found.lost_h == pytest.approx(useful * 0.5 / 16 + 0.1)


def test_several_slices_by_hand():
    # Within 64 chips: 2 x 63/64 x 100 / 100 = 1.96875 ms, 100 messages of 10 + 4 us: 1.4 ms.
    assert exchange_ms(ROUND, 64) == pytest.approx(3.36875)
    # Between four: 100 MB over 16 hosts, 2 x 3/4 x 6.25 / 10 = 0.9375 ms, 100 x 100 us: 10 ms.
    assert exchange_ms(ROUND, 256) == pytest.approx(3.36875 + 10.9375)
    found = estimate(dataclasses.replace(ROUND, host_cores=1000, read_mb_s=1e6), 256)
    assert found.batch == 10_000  # the largest: 39 images a chip
    assert found.compute_ms == pytest.approx(2 * (30 + 0.4 * (10_000 / 256 - 50)))


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        (dict(host_cores=1000, read_mb_s=1e5), "computing"),
        (dict(host_cores=1000, read_mb_s=100), "reading"),
        (dict(host_cores=5), "decoding"),
        (dict(host_cores=1000, read_mb_s=1e5, link_gb_s=0.5), "exchange"),
        (dict(host_cores=1000, read_mb_s=1e5, preemptions_per_hour=40), "interruptions"),
    ],
)
def test_the_limit_is_named(changes, limit):
    assert estimate(dataclasses.replace(ROUND, **changes), 16).limit == limit


def test_input_stops_being_the_limit_where_it_is_said():
    """Below the core count in `turning_points`, decoding is the limit; above it, computing is."""
    options = dataclasses.replace(Options(), read_mb_s=1e6)
    text = turning_points(options)[0]
    cores = int(text.split("below ")[1].split(" cores")[0])
    few, many = (
        estimate(dataclasses.replace(options, host_cores=n), options.slice_chips)
        for n in (cores - 1, cores + 1)
    )
    assert few.limit == "decoding"
    assert many.limit == "computing"


def test_slow_checkpoints_are_waited_for():
    slow = dataclasses.replace(ROUND, save_mb_s=4)  # 100 s, every 60 s
    assert estimate(slow, 16).save_h == pytest.approx(1250 / 60 * 42 / 3600)


def test_every_number_of_the_page_is_the_model_s():
    page = (Options().docs, "pods.md")
    with open("/".join(page)) as file:
        text = file.read()
    assert table([estimate(Options(), chips) for chips in Options().chips]) in text
    assert images_per_host(Options())[1] == "reading"
