"""Reading order and refusals of activation arrays."""

from itertools import islice

import numpy as np
import pytest
import torch

from saes import ActivationArrays, DictionaryError, TensorActivations
from saes.arrays import BLOCK_ROWS, read, shuffled_batches, shuffled_buffers, spread


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
