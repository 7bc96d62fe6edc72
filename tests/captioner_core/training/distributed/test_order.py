"""Every epoch has every image once, in the same batches for any number of workers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from captioner_core.training.distributed.order import BatchOrder

SIZES = st.tuples(st.integers(1, 200), st.sampled_from([1, 2, 4, 6, 12, 16]), st.integers(0, 3))


@given(SIZES, st.integers(1, 4))
def test_every_epoch_has_every_image_once(sizes, epoch):
    order = BatchOrder(*sizes)
    batches = order.batches(epoch)
    assert len(batches) == order.steps
    assert sorted(np.concatenate(batches)) == list(range(order.images))
    assert max(map(len, batches)) <= order.batch_size


@given(SIZES, st.sampled_from([2, 3, 4]))
def test_the_batches_of_all_workers_together_are_those_of_one(sizes, workers):
    order = BatchOrder(*sizes)
    if order.batch_size % workers:
        return
    shares = [order.batches(1, worker, workers) for worker in range(workers)]
    for step, full_batch in enumerate(order.batches(1)):
        assert sorted(np.concatenate([share[step] for share in shares])) == sorted(full_batch)
    for worker, share in enumerate(shares):
        assert all(row % workers == worker for batch in share for row in batch), (
            "a worker needs only its own images"
        )


def test_the_order_depends_on_epoch_and_seed_alone():
    order = BatchOrder(100, 4, 0)

    def flat(batches):
        return np.concatenate(batches).tolist()

    assert flat(order.batches(1)) == flat(BatchOrder(100, 4, 0).batches(1))
    assert flat(order.batches(1)) != flat(order.batches(2))
    assert flat(order.batches(1)) != flat(BatchOrder(100, 4, 1).batches(1))
