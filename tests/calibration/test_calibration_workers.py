"""Several processes that share the images write what one process writes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from calibration_models import Model, Pyramid, model_with, pictures

from autoadapt.calibration import calibrate, distil, made_images
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.workers import combined
from autoadapt.errors import CalibrationError

IMAGES = 24


def calibrated(data, **options):
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    torch.manual_seed(5)
    model, old = model_with(old, new).double(), old.double()
    found = calibrate(model, at="backbone", like=old, data=data, tokens_per_image=20, **options)
    return found, model.backbone.adapters.state_dict()


def distilled(data):
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    model, old = model_with(old, new).double(), old.double()
    found = distil(model, at="backbone", like=old, data=data, steps=8, lr=1e-2)
    return found.course, model.backbone.state_dict()


def worker(rank, count, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    images = pictures(IMAGES, dtype=torch.float64)
    moments = combined(Moments.of(images[rank::count].flatten(2)[..., 0], images[rank::count].flatten(2)[..., 1]))
    found, adapters = calibrated(images[rank::count].split(3), refine=3, augment=0)
    learned = distilled(images[rank::count].split(3))
    made_images.MADE, made_images.BATCH = 12, 2
    shared, made = calibrated(images[rank::count].split(3))
    try:
        calibrated(images[rank::count].split(3) if rank else [images[:4] * float("nan")])
        failed = ""
    except CalibrationError as error:
        failed = error.summary
    lost = []
    for data in ([images[:3], images[3:6], images[:3] * float("nan")], [images[:3] * float("nan"), images[:3]]):
        try:
            distilled(data if rank else images[:9].split(3))
        except CalibrationError as error:
            lost.append(error.summary)
    told = found.model_dump_json(), shared.model_dump_json(exclude={"seconds", "solver_seconds", "bytes"})
    torch.save((told, adapters, made, moments.tensors, failed, learned, lost), f"{folder}/{rank}.pt")
    dist.barrier()  # a process that leaves early takes the connection with it
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_gloo_processes_give_the_answer_of_one(tmp_path):
    mp.spawn(worker, (2, tmp_path / "store", tmp_path), nprocs=2)
    images = pictures(IMAGES, dtype=torch.float64)
    alone, adapters = calibrated(images.split(6), refine=3, augment=0)
    made, said = [], []
    whole = Moments.of(images.flatten(2)[..., 0], images.flatten(2)[..., 1])
    for rank in range(2):
        (told, shared), written, own, moments, failed, learned, lost = torch.load(tmp_path / f"{rank}.pt")
        made.append(own)
        said.append(shared)
        for name, tensor in whole.tensors.items():
            torch.testing.assert_close(moments[name], tensor, rtol=1e-10, atol=1e-10)
        for name, tensor in adapters.items():
            torch.testing.assert_close(written[name], tensor, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(learned, distilled(images.split(6)), rtol=1e-6, atol=1e-8)
        assert f'"solver":"{alone.solver}"' in told
        assert '"images":24' in told
        assert failed == ("features of `0` are not finite" if rank == 0 else "another process failed")
        assert lost == ["the head's answers cannot be compared" if rank else "another process failed"] * 2
    assert said[0] == said[1]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_without_processes_nothing_is_summed():
    moments = Moments.of(torch.randn(5, 3), torch.randn(5, 2))
    assert combined(moments) is moments


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [3, 8])
def test_the_cut_into_batches_does_not_matter(size, monkeypatch):
    monkeypatch.setattr(made_images, "MADE", 8)
    images = pictures(IMAGES, dtype=torch.float64)
    left, right = (calibrated(images.split(n))[1] for n in (size, 24))
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-8, atol=1e-8)
