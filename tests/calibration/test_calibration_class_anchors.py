"""Two classifiers of the same classes ask for a map of their own, with images or without."""

import pytest
import torch
from calibration_models import pictures
from made_once import made_once
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate
from autoadapt.errors import CalibrationError

IMAGES = pictures(32)
CLASSES = 10


class Pooled(nn.Module):
    """A backbone whose output is a vector, or with `keeps_map` its last level."""

    def __init__(self, channels, seed, *, keeps_map=False):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), nn.ReLU())
        self.keeps_map = keeps_map

    def forward(self, x):
        level = self.layers(x)
        return level if self.keeps_map else level.mean((2, 3))


def classifier(channels, classes=CLASSES, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(channels, classes)


@made_once
def pair(**options):
    old, new = Pooled(24, 0, **options).eval(), Pooled(16, 1, **options).eval()
    return old, new, adapt(new, like=old, inputs=IMAGES[:2], project="always")


def test_without_data_the_old_classifier_answers_as_the_new_models_own_does():
    old, new, net = pair()
    head, own = classifier(24), classifier(16, seed=1)
    found = calibrate(net, like=old, head=head, own_head=own, data=None)
    assert (found.written, found.images, found.solver) == (True, 0, "class anchors")
    assert "nothing is known of how good it is" in found.remarks[-1]
    assert found.gist().endswith("written, from the classifiers alone")
    with torch.no_grad():
        torch.testing.assert_close(head(net(IMAGES)).softmax(1), own(new(IMAGES)).softmax(1), atol=1e-5, rtol=0)


def test_of_more_classes_than_channels_the_answers_are_as_near_as_they_can_be():
    old, new, net = pair()
    head, own = classifier(24, 60), classifier(16, 60, seed=1)
    result = calibrate(net, like=old, head=head, own_head=own, data=None)
    with torch.no_grad():
        found, wanted = (x - x.mean(1, keepdim=True) for x in (head(net(IMAGES)), own(new(IMAGES))))
        centred = (head.weight - head.weight.mean(0)).double()
        left = (found - wanted).double()
        own_centred = (own.weight - own.weight.mean(0)).double()
        within = own_centred.T @ torch.linalg.pinv(centred.T) @ centred.T
        share = within.square().sum() / own_centred.square().sum()
    assert float((left @ centred).abs().max()) < 1e-4  # what is left is out of the old classifier's reach
    assert float(left.square().mean()) < float(wanted.square().mean())
    assert f"the old classifier can say {float(share):.0%} of what" in result.remarks[-1]


def test_heads_that_pool_maps_first_are_as_good():
    old, new, net = pair(keeps_map=True)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head, own = nn.Sequential(*pool, classifier(24)), nn.Sequential(*pool, classifier(16, seed=1))
    calibrate(net, like=old, head=head, own_head=own, data=None)
    with torch.no_grad():
        torch.testing.assert_close(head(net(IMAGES)).softmax(1), own(new(IMAGES)).softmax(1), atol=1e-5, rtol=0)


def test_with_data_it_is_one_of_the_maps_that_are_tried_and_taken_where_it_is_best():
    old, new, net = pair()
    head = classifier(24)
    torch.manual_seed(2)
    with torch.no_grad():  # the new model knows by itself what the old one says; eight images do not
        features, answers = new(pictures(2000, seed=5)), head(old(pictures(2000, seed=5)))
        solution = torch.linalg.lstsq(torch.cat([features, torch.ones(2000, 1)], 1), answers).solution
        own = nn.Linear(16, CLASSES)
        own.weight.copy_(solution[:-1].T)
        own.bias.copy_(solution[-1])
    found = calibrate(net, like=old, head=head, own_head=own, data=[IMAGES[:8]], augment=0)
    scores = {trial.solver: trial.score for trial in found.trials}
    assert min(scores, key=scores.get) == "class anchors" == found.solver
    assert found.written
    assert found.head.loss < found.mean_only.loss


@pytest.mark.parametrize(
    ("head", "own", "said"),
    [
        (classifier(24), classifier(16, 7), "10 classes, as the old head has"),
        (None, classifier(16), "no head of the backbone alone"),
        (nn.Sequential(classifier(24), nn.Tanh()), classifier(16), "affine in the features"),
        (classifier(24), classifier(9), "an answer on 16 channels at one place"),
    ],
)
def test_classifiers_that_say_nothing_are_refused_and_nothing_is_written(head, own, said):
    old, _, net = pair()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CalibrationError, match=said):
        calibrate(net, like=old, head=head, own_head=own, data=None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_no_data_without_a_classifier_is_refused():
    old, _, net = pair()
    with pytest.raises(CalibrationError, match="nothing, and no own_head="):
        calibrate(net, like=old, head=classifier(24), data=None)


POOL = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


@pytest.mark.parametrize(
    "before",
    [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-2, 2), nn.LeakyReLU(), nn.Softshrink(0.1)],
    ids=lambda one: type(one).__name__,
)
def test_a_classifier_that_cuts_features_off_is_not_affine(before):
    old, _, net = pair()
    with pytest.raises(CalibrationError, match="affine in the features"):
        calibrate(net, like=old, head=nn.Sequential(before, classifier(24)), own_head=classifier(16), data=None)


@pytest.mark.parametrize(
    "pool",
    [
        [nn.Conv2d(24, 24, 3, padding=1), *POOL, classifier(24)],
        [nn.AdaptiveAvgPool2d(2), nn.Flatten(), classifier(96)],
        [nn.AdaptiveMaxPool2d(1), nn.Flatten(), classifier(24)],
    ],
    ids=["convolution", "four places", "maximum"],
)
def test_a_classifier_that_reads_places_together_is_refused(pool):
    old, _, net = pair(keeps_map=True)
    own = nn.Sequential(*POOL, classifier(16, seed=1))
    with pytest.raises(CalibrationError, match="a mean of those to its places"):
        calibrate(net, like=old, head=nn.Sequential(*pool), own_head=own, data=None)


def test_a_classifier_that_reads_one_place_or_weighs_them_is_served():
    class First(nn.Module):
        def forward(self, x):
            return 0.7 * x[:, :, 0, 0] + 0.3 * x[:, :, -1, -1]

    old, new, net = pair(keeps_map=True)
    head, own = nn.Sequential(First(), classifier(24)), nn.Sequential(First(), classifier(16, seed=1))
    calibrate(net, like=old, head=head, own_head=own, data=None)
    with torch.no_grad():
        torch.testing.assert_close(head(net(IMAGES)).softmax(1), own(new(IMAGES)).softmax(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_classifiers_of_other_precisions_tell_as_much_as_they_can(dtype):
    old, new = Pooled(24, 0).eval().to(dtype), Pooled(16, 1).eval().to(dtype)
    head, own, images = classifier(24).to(dtype), classifier(16, seed=1).to(dtype), IMAGES.to(dtype)
    net = adapt(new, like=old, inputs=images[:2], project="always")
    calibrate(net, like=old, head=head, own_head=own, data=None)
    near = 8 * torch.finfo(dtype).eps
    with torch.no_grad():
        torch.testing.assert_close(head(net(images)).softmax(1), own(new(images)).softmax(1), atol=near, rtol=0)


def test_a_single_score_is_kept_as_it_is():
    old, new, net = pair()
    head, own = classifier(24, 1), classifier(16, 1, seed=1)
    calibrate(net, like=old, head=head, own_head=own, data=None)
    with torch.no_grad():
        torch.testing.assert_close(head(net(IMAGES)), own(new(IMAGES)), atol=1e-5, rtol=0)


def test_an_old_classifier_that_answers_the_same_to_everything_is_refused():
    old, _, net = pair()
    head, before = classifier(24), {name: one.clone() for name, one in net.state_dict().items()}
    nn.init.zeros_(head.weight)
    with pytest.raises(CalibrationError, match="says nothing of these adapters"):
        calibrate(net, like=old, head=head, own_head=classifier(16, seed=1), data=None)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
