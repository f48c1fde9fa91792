"""What each of some gloo processes does in the tests of calibration on several; what came of it goes into files."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from calibration_models import Model, Pyramid, model_with, pictures
from rank_children import meet
from torch.utils.data import DataLoader, DistributedSampler

from autoadapt.calibration import calibrate
from autoadapt.errors import CalibrationError

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # torch 2.5
    from torch.distributed._composable.fsdp import fully_shard

IMAGES = 25
FIRST = 12
"""Images that are counted before a run is stopped."""


def models():
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    torch.manual_seed(5)
    return model_with(old, new).double(), old.double()


def images(count=IMAGES):
    return pictures(count, dtype=torch.float64)


def fitted(data, change=lambda model, old: None, **options):
    """What `calibrate` says, and the adapters that it wrote."""
    model, old = models()
    change(model, old)
    found = calibrate(model, at="backbone", like=old, data=data, tokens_per_image=20, **({"augment": 0} | options))
    return found, model.backbone.adapters.state_dict()


def loader(rank, count):
    dataset = list(images())
    return DataLoader(dataset, 3, sampler=DistributedSampler(dataset, count, rank, shuffle=False))


def sampled(rank, count, _folder):
    return fitted(loader(rank, count))


def uneven(rank, count, _folder):
    """All ranks but the last take a batch of four, and the first one the rest."""
    parts = images().split(4)
    return fitted(parts[count - 1 :] if rank == 0 else parts[rank - 1 : rank])


def without_any(rank, count, _folder):
    """Every image of the data is the first rank's, every `count`-th number."""
    return fitted([] if rank else images().split(4), augment="auto")


def stopped(rank, count, folder):
    return fitted(images()[rank::count].split(2), images=FIRST, state=folder / "fit.safetensors")


def going_on(rank, count, folder):
    seen = []

    def dealt():
        for batch in images()[rank::count].split(2):
            seen.append(len(batch))
            yield batch

    found = fitted(dealt(), state=folder / "fit.safetensors")
    return (*found, sum(seen))


def in_another_order(rank, count, folder):
    return fitted(images().flip(0)[rank::count].split(2), state=folder / "fit.safetensors")


def other_new(rank, count, _folder):
    """A backbone made without a seed: one weight is another on the last rank."""
    return fitted(loader(rank, count), lambda model, _: next(model.backbone.parameters()).data[0].add_(1e-3 * rank))


def other_old(rank, count, _folder):
    return fitted(loader(rank, count), lambda _, old: next(old.parameters()).data[0].add_(1e-3 * rank))


def other_seed(rank, count, _folder):
    return fitted(loader(rank, count), seed=rank)


def other_solver(rank, count, _folder):
    return fitted(loader(rank, count), solver=("auto", "ridge")[rank])


def other_head(rank, count, _folder):
    return fitted(loader(rank, count), head=torch.nn.PReLU(init=rank).double())


def other_adapters(rank, count, _folder):
    """Fresh adapters may differ: they are replaced by the same ones."""
    return fitted(loader(rank, count), lambda model, _: next(model.backbone.adapters.parameters()).data.add_(rank))


def same_for_all(_rank, _count, _folder):
    return fitted(images().split(4))


def faulty(rank, _count, _folder):
    return fitted([images(4) * float("nan")] if rank else images().split(4))


def dying(rank, count, folder):
    """The last rank dies of a signal while it waits for its third batch."""

    def dealt():
        for number, batch in enumerate(images()[rank::count].split(2)):
            if number == 2 and rank == count - 1:
                wait_for_the_others(folder, count)
                os.kill(os.getpid(), getattr(signal, os.environ["HOW_A_RANK_ENDS"]))
            yield batch
        (folder / f"read{rank}").touch()

    return fitted(dealt(), state=folder / "fit.safetensors")


def wait_for_the_others(folder, count):
    """Until the state files of all but the last are written; these wait for the last one then."""
    import time

    while not all((folder / f"fit.{rank}.safetensors").exists() for rank in range(count - 1)):
        time.sleep(0.05)


def sharded_pair(rank, count, _folder):
    """Backbones by themselves, sharded; uneven data, so that one rank waits for the other."""
    model, old = models()
    net, like, head = model.backbone, old.backbone, old.head
    for stage in [*net.backbone.stages, *like.stages]:
        fully_shard(stage)
    fully_shard(net), fully_shard(like)
    parts = images(24)[rank::count].split(3)
    found = calibrate(net, like=like, head=head, data=parts, tokens_per_image=20, augment=0)
    return found, whole(net.adapters)


def sharded(rank, count, _folder):
    """Bigger models, sharded stage by stage, the rest with the root; one has run before."""
    model, old = models()
    for one, stages in ((model, model.backbone.backbone.stages), (old, old.backbone.stages)):
        fully_shard(stages[1])
        fully_shard(one)
    old(images(2))
    model.train()
    buffers = [tensor.clone() for tensor in model.buffers()]
    found = calibrate(model, at="backbone", like=old, data=loader(rank, count), tokens_per_image=20, augment=0)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(*pair) for pair in zip(buffers, model.buffers(), strict=True))
    answer = model.eval()(images(2))
    answer.sum().backward()
    return found, whole(model.backbone.adapters), answer.detach()


def sharded_uneven(rank, count, _folder):
    """One rank has no batch at all, and made images are run by all at once."""
    from autoadapt.calibration import made_images

    made_images.MADE, made_images.BATCH = 8, 2
    model, old = models()
    fully_shard(model), fully_shard(old)
    data = [] if rank else images().split(4)
    found = calibrate(model, at="backbone", like=old, data=data, tokens_per_image=20)
    return found, whole(model.backbone.adapters)


def sharded_faulty(rank, _count, _folder):
    """One rank fails between two passes of the sharded models; then they still run."""
    model, old = models()
    fully_shard(model), fully_shard(old)
    before = whole(model.backbone.adapters)
    try:
        calibrate(model, at="backbone", like=old, data=[images(4) * (float("nan") if rank else 1)])
    except CalibrationError as error:
        after = whole(model.backbone.adapters)
        assert all(torch.equal(before[name], after[name]) for name in before)
        model(images(2)), old(images(2))
        return error.summary
    return "nothing"


def whole(module):
    module.reshard() if hasattr(module, "reshard") else None
    return {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in module.state_dict().items()}


def main(names, rank, count, folder):
    meet(rank, count, folder, float(os.environ.get("SECONDS_TO_WAIT", "120")))
    for name in names:
        try:
            said = globals()[name](rank, count, folder)
        except CalibrationError as error:
            said = str(error)
        if isinstance(said, tuple):
            said = (said[0].model_dump_json(), *said[1:])
        torch.save(said, folder / f"{name}{rank}.pt")


if __name__ == "__main__":
    try:
        main(sys.argv[1:-3], int(sys.argv[-3]), int(sys.argv[-2]), Path(sys.argv[-1]))
        if not os.environ.get("HOW_A_RANK_ENDS"):
            dist.barrier()  # a process that leaves early takes the connection with it
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # all is written: threads of gloo now and then abort a process that ends by itself
