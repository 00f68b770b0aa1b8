"""Reading order and refusals of activation arrays."""

from itertools import islice

import numpy as np
import pytest
import torch

from saes import ActivationArrays, DictionaryError, TensorActivations
from saes.arrays import BLOCK_ROWS, read, shuffled_batches, shuffled_buffers, spread
from saes.shards import ArrayWriter, open_mask, set_names, shard_paths


def test_an_epoch_names_every_row_once():
    n, seen = 150_000, []
    for rows in shuffled_buffers(n, seed=3):
        seen.append(rows)
        if sum(map(len, seen)) >= n:
            break
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(n))


def test_batches_can_start_anywhere():
    x = TensorActivations(torch.arange(1000.0).view(1000, 1, 1))
    whole = [b.flatten().tolist() for b in islice(shuffled_batches(x, 96, seed=1), 40)]
    for start in (1, 9, 10, 11, 31):
        later = [b.flatten().tolist() for b in islice(shuffled_batches(x, 96, 1, start), 40 - start)]
        assert later == whole[start:]
    assert all(len(b) == 96 for b in whole)


def test_kinds_of_files(tmp_path):
    x = torch.randn(300, 4)
    np.save(tmp_path / "a.npy", x.numpy())
    np.save(tmp_path / "b.npy", x.half().numpy())
    np.save(tmp_path / "c.npy", x.bfloat16().view(torch.int16).numpy().view(np.uint16))
    arrays = ActivationArrays([tmp_path / f"{name}.npy" for name in "abc"])
    assert arrays.shape == (300, 3, 4)
    rows = np.array([5, 0, 299])
    found = arrays[rows]
    assert torch.equal(found[:, 0], x[rows])
    assert torch.equal(found[:, 1], x[rows].half().float())
    assert torch.equal(found[:, 2], x[rows].bfloat16().float())


def test_spread_covers_the_set():
    x = TensorActivations(torch.zeros(100_000, 1, 1))
    rows = spread(x, 1000)
    assert 900 <= len(rows) <= 1000 + BLOCK_ROWS
    assert rows[0] == 0
    assert rows[-1] == 99_999
    assert np.array_equal(spread(x, 10**6), np.arange(100_000))


def test_rows_that_are_not_numbers_are_named():
    x = torch.zeros(50, 2, 3)
    x[17, 1, 2] = torch.nan
    x[20, 0, 0] = torch.inf
    with pytest.raises(DictionaryError, match="row 17, 20"):
        read(TensorActivations(x), np.arange(50))


def test_files_that_cannot_be_used(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((5, 2), np.float32))
    np.save(tmp_path / "int.npy", np.zeros((5, 2), np.int64))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    for names, sentence in [
        ([], "no activation array"),
        (["none.npy"], "does not exist"),
        (["a.npy", "b.npy"], "differ in shape"),
        (["int.npy"], "int64"),
        (["cut.npy"], "not a whole"),
    ]:
        with pytest.raises(DictionaryError, match=sentence):
            ActivationArrays([tmp_path / n for n in names])


def written(folder, x, sizes):
    """x in pieces of these sizes, each written backwards, with a resumed writer in between."""
    for path, part in zip(shard_paths(folder / "a.npy", len(sizes)), x.split(sizes), strict=True):
        for row in reversed(range(len(part))):
            writer = ArrayWriter(path, tuple(part.shape), np.float32, resume=row < len(part) - 1)
            writer.put(row, part[row : row + 1].numpy())
            writer.flush()
            writer.close()


def test_shards_read_as_one_array(tmp_path):
    x = torch.randn(50, 3)
    written(tmp_path, x, [20, 1, 29])
    arrays = ActivationArrays([tmp_path / "a.npy"])
    assert arrays.shape == (50, 1, 3)
    rows = np.random.default_rng(0).permutation(50)
    assert torch.equal(arrays[rows][:, 0], x[rows])
    with pytest.raises(IndexError, match="rows 3 to 50 of 50"):
        arrays[np.array([3, 50])]
    assert set_names(sorted(tmp_path.iterdir())) == [tmp_path / "a.npy"]
    with (tmp_path / "b.npy").open("wb") as file:
        np.save(file, x.numpy())
    (tmp_path / "one").mkdir()
    written(tmp_path / "one", x, [50])  # a writer's file is numpy's own, byte for byte
    assert (tmp_path / "one" / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    (tmp_path / "a-00001-of-00003.npy").unlink()
    with pytest.raises(DictionaryError, match=r"lacks a-00001-of-00003\.npy of its 3 pieces"):
        ActivationArrays([tmp_path / "a.npy"])
    np.save(tmp_path / "a-00000-of-00002.npy", x.numpy())
    with pytest.raises(DictionaryError, match="pieces of different sets"):
        ActivationArrays([tmp_path / "a.npy"])


def test_a_mask_has_to_belong_to_the_rows(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(5) > 2)
    assert open_mask(tmp_path / "m.npy", 5).tolist() == [False, False, False, True, True]
    with pytest.raises(DictionaryError, match=r"holds bool \(5,\); expected bool \(6,\)"):
        open_mask(tmp_path / "m.npy", 6)
    with pytest.raises(DictionaryError, match="cannot be read as a mask"):
        open_mask(tmp_path / "none.npy", 6)


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "start"), [(1_000, 96, 0), (1_000, 96, 37), (70_000, 1_024, 60), (130, 64, 5)]
)
def test_batches_of_a_tensor_are_those_of_a_file(tmp_path, n_rows, batch_size, start):
    x = torch.arange(n_rows * 2, dtype=torch.float32).view(n_rows, 2)
    np.save(tmp_path / "x.npy", x.numpy())
    in_memory = shuffled_batches(TensorActivations(x[:, None]), batch_size, seed=3, start=start)
    on_disk = shuffled_batches(ActivationArrays([tmp_path / "x.npy"]), batch_size, seed=3, start=start)
    for ours, theirs in islice(zip(in_memory, on_disk, strict=False), 40):
        assert torch.equal(ours, theirs)
