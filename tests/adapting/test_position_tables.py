"""Models of unknown code that add a table of positions read images at their own size: the table follows the image."""

from __future__ import annotations

import copy
import functools
import pickle
import threading

import pytest
import torch
from table_models import FREED, LEFT, PATCH, WIDTH, Base, LookedUp, Registers
from torch import nn

import autoadapt as aa
from autoadapt.contracts.modes import in_eval_mode

OLD = nn.Conv2d(3, WIDTH, PATCH, PATCH)
GRID, OTHER = (4, 4), (3, 7)
IMAGE, LARGE = (torch.rand(2, 3, PATCH * rows, PATCH * columns) for rows, columns in (GRID, OTHER))


def adapted(model, **options):
    return in_eval_mode(aa.adapt(model, like=OLD, inputs=LARGE, **options))


@functools.cache
def freed(kind):
    """A model, its tensors before anything was done, and what became of it; no test changes any of these."""
    model = in_eval_mode(kind(*GRID))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    return model, kept, adapted(model)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", FREED, ids=lambda kind: kind.__name__)
def test_the_table_is_resampled_as_by_hand(kind):
    model, _, net = freed(kind)
    assert "4x4 resampled" in str(net.plan)
    model = copy.deepcopy(model)
    model.wanted_columns = OTHER[1]
    by_hand = in_eval_mode(model.resized(*OTHER, GRID))
    with torch.no_grad():
        assert torch.equal(net(IMAGE), model(IMAGE))
        torch.testing.assert_close(net(LARGE), by_hand(LARGE))
    assert list(model.state_dict()) == list(kind(*GRID).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEFT, ids=lambda kind: kind.__name__)
def test_what_is_no_table_of_cells_in_rows_is_left_at_its_size(kind):
    model = in_eval_mode(kind(*GRID))
    with pytest.raises(aa.AdaptError, match="cannot read images at their own size"):
        adapted(model, resolution="native")
    net = adapted(model)
    assert "resize to 32" in str(net.plan)


@pytest.mark.slow
def test_the_module_itself_and_its_class_stay_as_they_are():
    model, kept, _ = freed(Registers)
    assert type(model) is Registers
    assert not model._forward_hooks
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="must match the size"):
        model(LARGE)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [Registers, LookedUp], ids=lambda kind: kind.__name__)
def test_a_freed_module_is_copied_pickled_saved_and_verified(kind, tmp_path):
    _, _, net = freed(kind)
    report = net.verify()
    assert report.passed, report
    aa.save(net, tmp_path / "net")
    restored = in_eval_mode(aa.restore(tmp_path / "net", new=kind(*GRID)))
    with torch.no_grad():
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), restored):
            for image in (IMAGE, LARGE):
                assert torch.equal(other(image), net(image))
    assert type(net.backbone).__name__ == kind.__name__
    for refused in (aa.to_source, lambda one: aa.export(one, tmp_path / "net.onnx", LARGE)):
        with pytest.raises(
            aa.AdaptError, match=r"native sizes are not written|its position tables were found by running it"
        ):
            refused(net)


def test_the_table_of_the_module_is_trained():
    model, _, net = freed(Registers)
    net = copy.deepcopy(net).train()
    net(LARGE).square().mean().backward()
    assert net.backbone.get_parameter("pos").grad.abs().sum() > 0
    assert net.backbone.get_parameter("pos").shape == model.pos.shape


def test_images_of_two_sizes_in_two_threads_and_calls_that_raise_keep_their_tables_apart():
    _, _, net = freed(Registers)
    with torch.no_grad():
        wanted = [net(image) for image in (IMAGE, LARGE)]
    wrong = []

    def run(place):
        with torch.no_grad():
            for _ in range(40):
                with pytest.raises(RuntimeError):
                    net((IMAGE, LARGE)[1 - place][:, :2])
                if not torch.equal(net((IMAGE, LARGE)[place]), wanted[place]):
                    wrong.append(place)

    threads = [threading.Thread(target=run, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_a_model_of_a_library_that_is_not_known_reads_images_at_their_own_size():
    vit_pytorch = pytest.importorskip("vit_pytorch")
    model = vit_pytorch.ViT(image_size=32, patch_size=PATCH, num_classes=10, dim=WIDTH, depth=2, heads=2, mlp_dim=32)
    net = adapted(in_eval_mode(model), resolution="native")
    assert "position table pos_embedding 4x4 resampled" in str(net.plan)
    assert net(LARGE).shape == OLD(LARGE).shape


def test_a_table_that_was_taken_away_is_missed_as_any_attribute_is():
    net = copy.deepcopy(freed(Base)[2])
    del net.backbone.pos
    assert not hasattr(net.backbone, "pos")
    with pytest.raises(AttributeError, match="has no attribute 'pos'"):
        net(IMAGE)
