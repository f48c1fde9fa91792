"""Gradient checkpointing around what stands in a swapped region, and members that run without gradients."""

import pytest
import region_models as written
import torch
import torch.nn.functional as F
from made_once import made_once
from small_models import Pyramid, image
from torch.utils.checkpoint import checkpoint

import autoadapt as aa
from autoadapt.swapping import activation_checkpoints

LOST = r"without its gradients.*checkpoint\(\.\.\., use_reentrant=False\) keeps them"


class Checkpointed(written.Crossing):
    """Parts of it run in checkpoints; `reentrant` is None where they run as they are."""

    reentrant = None

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def run(self, part, *given):
        if self.reentrant is None:
            return part(*given)
        return checkpoint(part, *given, use_reentrant=self.reentrant)

    def forward(self, x):
        match self.parts:
            case "stand-ins":
                x = self.run(self.layer1, F.relu(self.conv1(x)))
                y = self.run(self.layer2, x)
            case "stand-ins with functions":
                x = self.run(lambda x: F.relu(self.layer1(x)) * 1.5, F.relu(self.conv1(x)))
                y = self.run(lambda x: torch.sigmoid(self.layer2(x)), x)
            case "each":
                x = self.run(lambda x: F.relu(self.conv1(x)), x)
                x = self.run(self.layer1, x)
                y = self.run(lambda x: torch.sigmoid(self.layer2(x)), x)
            case "all at once":
                x, y = self.run(self.trunk, x)
            case "two at once":
                x, y = self.run(self.stages, F.relu(self.conv1(x)))
        return self.head(y + x)

    def stages(self, x):
        x = torch.tanh(self.layer1(x))
        return x, torch.sigmoid(self.layer2(x))

    def trunk(self, x):
        return self.stages(F.relu(self.conv1(x)))


@made_once
def swapped(parts):
    torch.manual_seed(0)
    return aa.swap(Checkpointed(parts), "conv1:layer2", Pyramid(6, 12), inputs=image()).train()


def gradients(model, reentrant):
    """Of the sum of two passes, so that the second has begun before the first is computed again."""
    model.reentrant = reentrant
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(2, 3, 32, 32, generator=generator).requires_grad_() for _ in range(2)]
    sum(model(one).square().mean() for one in images).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


PARTS = ["stand-ins", "stand-ins with functions", "each", "all at once", "two at once"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("parts", PARTS)
def test_a_checkpoint_that_computes_a_part_again_gets_the_levels_of_its_own_pass(parts):
    model = swapped(parts)
    expected, found = gradients(model, None), gradients(model, False)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_a_reentrant_checkpoint_around_the_whole_region_gives_the_same_gradients():
    model = swapped("all at once")
    expected, found = gradients(model, None), gradients(model, True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch's own, of the same fault
@pytest.mark.parametrize("parts", PARTS[:3] + PARTS[4:])
def test_a_reentrant_checkpoint_around_a_part_of_the_region_is_refused_since_it_would_lose_gradients(parts):
    with pytest.raises(RuntimeError, match=LOST):
        gradients(swapped(parts), True)


def test_levels_that_are_made_without_gradients_and_read_with_them_are_refused_in_training_alone():
    class Frozen(written.Crossing):
        def forward(self, x):
            with torch.no_grad():
                x = F.relu(self.conv1(x))
            x = self.layer1(x)
            return self.head(self.layer2(x) + x)

    torch.manual_seed(0)
    model = aa.swap(Frozen(), "conv1:layer2", Pyramid(6, 12), inputs=image()).train()
    with pytest.raises(RuntimeError, match="layer1 would hand on a level of conv1 without its gradients"):
        model(image())
    assert model.eval()(image()).requires_grad
    model.train().conv1.requires_grad_(False)
    model(image()).sum().backward()


def test_a_level_that_is_read_without_gradients_has_none():
    class Stopped(written.Crossing):
        def forward(self, x):
            x = self.layer1(F.relu(self.conv1(x)))
            with torch.no_grad():
                y = self.layer2(x)
            self.seen = y.requires_grad
            return self.head(y + x)

    torch.manual_seed(0)
    model = aa.swap(Stopped(), "conv1:layer2", Pyramid(6, 12), inputs=image()).train()
    model(image()).sum().backward()
    assert not model.seen
    deep = model.get_parameter("conv1.adapters.layer2.project.weight")
    assert deep.grad is None


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_model_in_train_mode_that_would_lose_gradients_is_refused_when_it_is_swapped():
    torch.manual_seed(0)
    model = Checkpointed("stand-ins").train()
    model.reentrant = True
    with pytest.raises(aa.SwapError, match="Checkpointed raises with the new module") as raised:
        aa.swap(model, "conv1:layer2", Pyramid(6, 12), inputs=image())
    assert "would hand on a level of conv1 without its gradients" in str(raised.value)
    assert not isinstance(model.conv1, aa.AdaptedModule)


def test_torch_2_5_which_does_not_tell_its_hooks_tells_the_same_checkpoint_by_its_frames():
    seen = []

    def part(x):
        seen.append((activation_checkpoints._recording(), activation_checkpoints._recording_by_frames()))
        return (x * 2).sin()

    x = torch.randn(3, requires_grad=True)
    checkpoint(part, checkpoint(part, x, use_reentrant=False), use_reentrant=False).sum().backward()
    assert len(seen) == 4
    assert all(one is not None and one is other for one, other in seen)
    part(x)
    assert seen[-1] == (None, None)
