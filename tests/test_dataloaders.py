from __future__ import annotations

import importlib
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from tests.test_dataset import ALL, USUAL, make_set
from utils import dataloaders
from utils.dataloaders import InfiniteDataLoader, SmartDistributedSampler, create_dataloader
from utils.errors import InputError, WorkError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "set")


def build(folder, workers=0, **options):
    options = {"hyp": USUAL, "augment": True, "shuffle": True} | options
    loader, dataset = create_dataloader(str(folder), 64, 3, 32, workers=workers, **options)
    return loader, dataset


@pytest.fixture(autouse=True)
def enough_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def contents(loader) -> list:
    return [(im.clone(), targets.clone(), paths, shapes) for im, targets, paths, shapes in loader]


def assert_same(a: list, b: list) -> None:
    assert len(a) == len(b)
    for (im1, t1, p1, s1), (im2, t2, p2, s2) in zip(a, b, strict=True):
        assert torch.equal(im1, im2) and torch.equal(t1, t2) and (p1, s1) == (p2, s2)


@needs_fork
@pytest.mark.parametrize("options", [{"hyp": ALL}, {"quad": True}], ids=["all", "quad"])
def test_any_worker_count_gives_the_same_batches(folder, options):
    reference = None
    for workers in (0, 1, 2):
        loader, _ = build(folder, workers, **options)
        assert loader.num_workers == workers
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            epochs += contents(loader)
        loader.set_epoch(1, start_batch=1)
        tail = contents(loader)
        loader.close()
        reference = reference or epochs
        assert_same(epochs, reference)
        assert_same(tail, reference[4:])
    assert len(reference) == 6


@needs_fork
def test_abandoned_epoch_leaves_no_trace(folder):
    loader, _ = build(folder, 2)
    loader.set_epoch(0)
    whole = contents(loader)
    loader.set_epoch(1)
    next(iter(loader))
    loader.set_epoch(0)
    assert_same(contents(loader), whole)
    pids = [w.pid for w in loader.iterator._workers]
    loader.set_epoch(0)
    assert_same(contents(loader), whole)
    assert [w.pid for w in loader.iterator._workers] == pids
    loader.close()


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_numbers_are_left_alone(folder, workers):
    loader, _ = build(folder, workers)
    torch.manual_seed(5)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002
    state = torch.get_rng_state()
    contents(loader)
    contents(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()  # noqa: NPY002
    loader.close()


def test_ranks_together_see_every_image_once(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in (0, 1):
        loader, _ = create_dataloader(
            str(folder), 64, 2, 32, hyp=USUAL, augment=True, shuffle=True, rank=rank, workers=0
        )
        for number, (images, _, paths, _) in enumerate(loader):
            assert len(images) == max(1, loader.batch_sampler.real_count(number))
            seen += paths[: loader.batch_sampler.real_count(number)]
    assert len(seen) == 8 == len(set(seen))


def test_two_ranks_draw_the_samples_of_one(folder, monkeypatch):
    whole, _ = create_dataloader(str(folder), 64, 4, 32, hyp=USUAL, augment=True, shuffle=True, workers=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    halves = [
        create_dataloader(str(folder), 64, 2, 32, hyp=USUAL, augment=True, shuffle=True, rank=rank, workers=0)[0]
        for rank in (0, 1)
    ]
    for batch, *shares in zip(whole, *halves, strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(batch[0][rank::2], share[0])


def test_rect_is_not_shuffled(folder):
    loader, dataset = build(folder, rect=True)
    assert [p for batch in loader for p in batch[2]] == dataset.im_files


@needs_fork
def test_weights_reach_running_workers(folder):
    loader, dataset = build(folder, 2)
    contents(loader)
    loader.set_weights(np.r_[np.zeros(6), 1.0, 1.0])
    loader.set_epoch(1)
    batches = contents(loader)
    assert {p for batch in batches for p in batch[2]} <= set(dataset.im_files[6:])
    assert {int(c) for batch in batches for c in batch[1][:, 1]} <= {6 % 3, 7 % 3}
    loader.close()


@needs_fork
def test_error_in_a_worker_names_the_file(folder):
    loader, _ = build(folder, 2)
    (folder / "5.png").write_bytes(b"junk")
    with pytest.raises(WorkError, match=r"5\.png") as error:
        for _ in range(4):
            contents(loader)
    assert "\n" not in str(error.value)
    loader.close()


@needs_fork
def test_workers_started_early_serve_the_epochs_that_follow(folder):
    plain, _ = build(folder, 2)
    expected = [contents(plain) for _ in range(3)]
    plain.close()
    loader, _ = build(folder, 2)
    loader.start()
    pids = [w.pid for w in loader.iterator._workers]
    assert_same(contents(loader), expected[0])
    assert_same(contents(loader), expected[1])
    loader.start()
    loader.set_epoch(2)  # another epoch than the one begun
    assert_same(contents(loader), expected[2])
    assert [w.pid for w in loader.iterator._workers] == pids
    loader.close()


@needs_fork
def test_worker_killed_before_its_first_epoch_is_replaced(folder, monkeypatch):
    monkeypatch.setattr(dataloaders, "_POLL_SECONDS", 1)
    plain, _ = build(folder, 2)
    expected = contents(plain)
    plain.close()
    loader, _ = build(folder, 2)
    loader.start()
    for worker in loader.iterator._workers:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert_same(contents(loader), expected)
    loader.close()


@needs_fork
def test_killed_worker_is_replaced_once(folder, monkeypatch, caplog):
    monkeypatch.setattr(dataloaders, "_POLL_SECONDS", 1)
    loader, _ = build(folder, 2)
    loader.set_epoch(0)
    whole = contents(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    batches = [next(iterator)]
    for worker in loader.iterator._workers:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.1)
    batches += list(iterator)
    assert_same(batches, whole)
    loader.close()


@needs_fork
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_a_worker_that_holds_a_finished_batch_is_replaced(folder, monkeypatch, sign, delay):
    """Its batch is announced already: what is left to fetch has to come from the worker itself."""
    monkeypatch.setattr(dataloaders, "_POLL_SECONDS", 1)
    monkeypatch.setattr(dataloaders, "STUCK_SECONDS", 1.0)
    loader, _ = build(folder, 2)
    loader.set_epoch(0)
    whole = contents(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    batches = [next(iterator)]
    time.sleep(delay)
    for worker in loader.iterator._workers:
        os.kill(worker.pid, sign)
    batches += list(iterator)
    assert_same(batches, whole)
    loader.close()


@needs_fork
def test_stuck_worker_is_reported(folder, monkeypatch):
    monkeypatch.setattr(dataloaders, "_POLL_SECONDS", 1)
    monkeypatch.setattr(dataloaders, "STUCK_SECONDS", 1.5)
    loader, dataset = build(folder, 1)
    monkeypatch.setattr(dataset, "_sample", lambda *_: time.sleep(60))
    with pytest.raises(WorkError, match="timed out"):
        contents(loader)


@needs_fork
def test_workers_outlive_signals_of_the_group(folder):
    loader, _ = build(folder, 1)
    contents(loader)
    worker = loader.iterator._workers[0]
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGTERM)
    assert len(contents(loader)) == 3
    assert loader.iterator._workers[0].pid == worker.pid and worker.is_alive()
    begin = time.monotonic()
    loader.close()
    assert not worker.is_alive() and time.monotonic() - begin < 5


def test_validation_needs_no_settings_and_repeats(folder):
    loader, _ = create_dataloader(str(folder), 64, 3, 32, rect=True, pad=0.5, workers=0)
    first, second = contents(loader), contents(loader)
    assert_same(first, second)
    assert first[0][0].is_contiguous() and first[0][0].dtype == torch.uint8


def test_worker_count(monkeypatch):
    assert dataloaders._worker_count(16, 32) == 8
    assert dataloaders._worker_count(4, 1) == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # GPUs that this run does not use take no CPUs from it
    assert dataloaders._worker_count(16, 32) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert dataloaders._worker_count(16, 32) == 2
    with pytest.raises(InputError, match="-1"):
        dataloaders._worker_count(-1, 8)


def test_plain_use_as_a_data_loader():
    loader = InfiniteDataLoader(torch.arange(6), batch_size=2, shuffle=False)
    assert [b.tolist() for b in loader] == [[0, 1], [2, 3], [4, 5]]


def test_smart_distributed_sampler_keeps_each_ranks_subset():
    data = list(range(7))
    for rank in (0, 1):
        sampler = SmartDistributedSampler(data, num_replicas=2, rank=rank)
        seen = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            seen.append(set(sampler))
            assert len(list(sampler)) == 4
        assert all(s == set(range(rank, 7, 2)) for s in seen)


@pytest.mark.parametrize("module", ["utils.dataloaders", "utils.augmentations"])
def test_names_of_the_interface(module, contract):
    import json

    facts = json.loads((contract / "api.json").read_text())[module]
    later = {"ClassificationDataset", "create_classification_dataloader", "_RepeatSampler"}
    elsewhere = set(dataloaders._ELSEWHERE) | {"check_version"}
    names = set(facts["functions"]) | set(facts["classes"]) | set(facts["constants"])
    names |= set(facts["reexported"]) | set(facts["also_importable_from_here"])
    owner = importlib.import_module(module)
    missing = [name for name in sorted(names - later - elsewhere) if not hasattr(owner, name)]
    assert missing == []


@needs_fork
def test_workers_that_died_with_a_lock_do_not_hold_up_the_main_process():
    """The event by which torch ends its workers has a lock that a killed worker may have held: it stays taken."""
    numbers = list(range(64))
    loader = dataloaders.InfiniteDataLoader(numbers, batch_size=4, num_workers=2)
    batches = iter(loader)
    next(batches)
    workers, lock = loader.iterator._workers, loader.iterator._workers_done_event._cond
    lock.acquire()
    closing = threading.Thread(target=loader.close, kwargs={"kill": True}, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert not any(worker.is_alive() for worker in workers)
    assert sum(len(batch) for batch in loader) == 64
