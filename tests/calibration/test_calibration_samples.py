"""Images are cut out of their batches and put together again, whatever containers they come in."""

import pytest
import torch

from autoadapt.calibration import samples
from autoadapt.calibration.samples import Sample, Samples, cut, joined, priority


def boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"boxes": torch.rand(count, 4, generator=generator), "scores": torch.rand(count, generator=generator)}


def equal(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", ["tensor", "levels", "pictures", "detections", "arguments"])
def test_what_was_cut_out_of_batches_is_put_together_again(kind, images):
    made = {
        "tensor": torch.randn(6, 4),
        "levels": {"a": torch.randn(6, 2, 5, 5), "b": torch.randn(6, 7)},
        "pictures": [torch.randn(3, 5, 5) for _ in range(6)],
        "detections": [boxes(number % 3, number) for number in range(6)],
        "arguments": {"images": [torch.randn(3, 5, 5) for _ in range(6)], "targets": [boxes(1, n) for n in range(6)]},
    }[kind]
    batches = [part(made, start, images) for start in range(0, 6, images)]
    cuts = [cut(batch, image, images) for batch in batches for image in range(images)]
    whole = joined(cuts, shapes_differ=kind == "detections")
    assert equal(whole.value, made)


def part(value, start, count):
    """Some images of a batch."""
    if isinstance(value, dict):
        return {key: part(child, start, count) for key, child in value.items()}
    return value[start : start + count]


def test_images_of_different_sizes_are_not_put_together():
    cuts = [cut([torch.zeros(3, size, 8)], 0, 1) for size in (8, 6)]
    assert joined(cuts) is None
    assert [one.shape[1] for one in joined(cuts, shapes_differ=True).value] == [8, 6]


def test_what_belongs_to_all_images_is_kept_once():
    value = {"x": torch.randn(2, 3), "scale": torch.ones(())}
    cuts = [cut(value, image, 2) for image in range(2)]
    assert equal(joined(cuts).value, value)
    assert cuts[0].bytes == 12


def test_as_many_images_are_kept_as_the_largest_lets_fit_into_the_bound(monkeypatch):
    monkeypatch.setattr(samples, "BYTES", 64)
    kept = Samples(1, 0, images=8)
    for number, size in enumerate((2, 2, 2, 2, 4, 2, 2, 2)):  # bytes: 8 each, then 16, so that four fit
        kept.add(Sample(number, 0, 1, cut({"x": torch.zeros(1, size)}, 0, 1), (), cut((), 0, 1)))
    assert sorted(kept.numbers) == sorted(sorted(range(8), key=lambda number: priority(0, number))[:4])
