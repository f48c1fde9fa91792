"""Numbers of one's own: the operations that torch keeps stay the ones that it keeps."""

import random
import threading
import time

import numpy as np
import pytest
import torch
from sleeping_threads import while_threads_sleep
from torch import nn

import autoadapt as aa
from autoadapt.contracts.randomness import OwnNumbers, other_threads, undisturbed


def test_no_operation_of_torch_is_replaced_by_another_object():
    # torch's dispatcher holds pointers to these objects without owning them, so a replaced one is a crash later on.
    packets = [torch.ops.aten.randn, torch.ops.aten.rand, torch.ops.aten.normal, torch.ops.aten.randint]
    before = {str(packet): [getattr(packet, name) for name in packet.overloads()] for packet in packets}
    with OwnNumbers(0):
        torch.randn(2), torch.rand(2), torch.normal(0.0, 1.0, (2,)), torch.randint(3, (2,))
    for packet in packets:
        kept = [getattr(packet, name) for name in packet.overloads()]
        assert all(old is new for old, new in zip(before[str(packet)], kept, strict=True)), packet


X = torch.zeros(2, 3, 8, 8)


class Draws(nn.Module):
    """Draws from all three generators."""

    def forward(self, x):
        return x + torch.rand(1).to(x) + random.random() + np.random.rand()


def states():
    """Where the three generators stand."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@while_threads_sleep
def test_generators_are_put_back_beside_threads_that_sleep():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    time.sleep(0.05)
    before = states()
    aa.capture(Draws(), X)
    after = states()
    done.set()
    thread.join()
    assert after == before


def test_they_are_left_alone_where_another_thread_has_drawn():
    drawn, go = [], threading.Event()

    def draw():
        go.wait()
        drawn.append(random.random())

    thread = threading.Thread(target=draw)
    random.seed(0)
    thread.start()
    with undisturbed():
        go.set()
        thread.join()
    assert random.random() not in drawn


def test_a_thread_that_draws_all_the_time_gets_no_number_twice():
    drawn, stop = [], threading.Event()

    def draw():
        while not stop.is_set():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1, dtype=torch.float64))))
            time.sleep(0.0002)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            net = aa.adapt(Draws(), like=Draws(), inputs=X, nondeterministic="allow")
            net.verify(X)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(drawn) > 100
    assert all(len(set(column)) == len(drawn) for column in zip(*drawn, strict=True))


def test_other_threads_are_known_by_how_long_they_have_run():
    go, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), sum(range(1000)), done.wait()))
    thread.start()
    time.sleep(0.05)
    first = other_threads()
    assert first is not None
    assert other_threads() == first
    go.set()
    time.sleep(0.05)
    assert other_threads() != first
    done.set()
    thread.join()


SIZES = {
    "random.random": lambda: 4 + (random.random() < 0.5),
    "random.choice": lambda: random.choice([4, 5]),
    "random.randint": lambda: random.randint(4, 5),
    "random.gauss": lambda: 4 + (random.gauss(0, 1) < 0),
    "numpy.random.rand": lambda: 4 + bool(np.random.rand() < 0.5),
    "numpy.random.randint": lambda: int(np.random.randint(4, 6)),
    "numpy.random.randn": lambda: 4 + bool(np.random.randn() < 0),
    "torch.rand": lambda: 4 + bool(torch.rand(1, device="cpu") < 0.5),
    "torch.randint": lambda: int(torch.randint(4, 6, (1,), device="cpu")),
    "torch.normal": lambda: 4 + bool(torch.normal(0.0, 1.0, (1,), device="cpu") < 0),
    "torch.bernoulli": lambda: 4 + int(torch.bernoulli(torch.full((1,), 0.5, device="cpu"))),
}


class EvenDraw(nn.Module):
    """Returns one of two sizes, by one even draw a call."""

    def __init__(self, draw):
        super().__init__()
        self.draw = SIZES[draw]
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x)[:, :, : self.draw()]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("draw", SIZES)
@while_threads_sleep
def test_a_size_that_is_drawn_is_seen_at_the_first_capture(draw):
    module, new = EvenDraw(draw), nn.Conv2d(3, 8, 1)
    for seed in range(4):
        random.seed(seed), np.random.seed(seed)
        if seed % 2:  # the other of two numbers that are made together
            random.gauss(0, 1), np.random.randn()
        before = states()
        try:
            assert aa.capture(module, torch.zeros(1, 3, 32, 32)).contradictions, seed
        except aa.CaptureError as error:  # another thread ran, so that each run drew others
            if "not deterministic" not in str(error):
                raise
        with pytest.raises(aa.AdaptError, match="not deterministic"):
            aa.adapt(new, like=module, inputs=torch.zeros(1, 3, 32, 32))
        assert states() == before


@pytest.mark.parametrize("inference", [False, True])
def test_operations_that_are_given_their_generator_by_its_place_draw_from_the_own_one(inference):
    before = torch.get_rng_state()
    with torch.inference_mode(inference), undisturbed():
        found = nn.functional.rrelu(-torch.ones(9), training=True)
    assert ((found > -1) & (found < 0)).all()
    assert torch.equal(torch.get_rng_state(), before)
