"""A whole model after `swap`: saved, restored into a freshly built one, and the same bit for bit."""

from __future__ import annotations

import copy
import json
import os

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.saving.folder_configs import checksum

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)
        self.out_channels = width

    def width(self) -> int:
        return self.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Net(nn.Module):
    """Reads an attribute and a method of its backbone, has a buffer, and ties two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 8, 1)
        self.again = nn.Conv2d(8, 8, 1)
        self.again.weight = self.head.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.backbone(x)) * self.backbone.out_channels / self.backbone.width()
        return self.again(self.head(maps)) * self.scale


def swapped(new: object = "timm:test_resnet") -> nn.Module:
    torch.manual_seed(1)
    model = aa.swap(Net(), "backbone", new if isinstance(new, nn.Module) else aa.load(new), inputs=X)
    model.train()
    model(X)
    model.eval()
    model.head.bias.requires_grad_(False)
    return model


def build(seed: int = 5) -> Net:
    torch.manual_seed(seed)
    return Net()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return swapped()


@pytest.fixture
def folder(model: nn.Module, tmp_path):
    report = aa.save(model, tmp_path / "net")
    assert report.call == f'aa.restore("{tmp_path / "net"}", model=build())'
    assert " ".join(str(report).split()).startswith("Net with backbone: timm:test_resnet (ResNet) -> ")
    return tmp_path / "net"


def test_a_whole_model_comes_back_bit_equal(model: nn.Module, folder) -> None:
    fresh = build()
    restored = aa.restore(folder, model=fresh)
    assert restored is fresh
    assert isinstance(restored.backbone, aa.AdaptedModule)
    assert torch.equal(restored(X), model(X))
    assert torch.equal(restored(X[:1, :, :20, :28]), model(X[:1, :, :20, :28]))
    left, right = model.state_dict(), restored.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert restored.head.weight is restored.again.weight
    assert not restored.head.bias.requires_grad
    assert restored.head.weight.requires_grad
    assert not restored.training
    assert restored.backbone.verify(X).passed


def test_only_data_is_written(folder) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["model.json", "model.safetensors", "parts/0/config.json", "parts/0/model.safetensors"]


def test_several_parts_and_backbones_without_a_name_are_given_by_path(tmp_path) -> None:
    def two() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))

    news = {"0": nn.Conv2d(3, 5, 2, stride=2), "2": nn.Conv2d(8, 6, 1)}
    model = two()
    for path, new in news.items():
        model = aa.swap(model, path, new, inputs=X)
    aa.save(model, tmp_path)
    restored = aa.restore(tmp_path, {"0": nn.Conv2d(3, 5, 2, stride=2), "2": nn.Conv2d(8, 6, 1)}, model=two())
    assert torch.equal(restored(X), model(X))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "model= was left out"),
        (lambda: nn.Sequential(), "is not the one that was saved"),
        (lambda: with_head(build(), nn.Conv2d(8, 3, 1)), "do not fit the model"),
        (lambda: with_head(build(), nn.Sequential(nn.Conv2d(8, 8, 1))), "do not fit the model"),
    ],
)
def test_another_model_is_refused_and_stays_as_it_was(folder, make, said: str) -> None:
    other = make()
    before = {} if other is None else {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(aa.SavingError, match=said):
        aa.restore(folder, model=other)
    assert other is None or all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("saved", "other", "said"),
    [
        (nn.Identity(), nn.Sigmoid(), "Sigmoid"),
        (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2),
            r"head.dilation\n  expected  \(1, 1\)\n  found     \(2, 2\)",
        ),
        (nn.Sequential(nn.Conv2d(8, 8, 1)), nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh()), "2 modules"),
    ],
)
def test_a_model_with_the_same_tensors_that_works_otherwise_is_refused(tmp_path, saved, other, said: str) -> None:
    model = aa.swap(with_head(build(), copy.deepcopy(saved)), "backbone", aa.load("timm:test_resnet"), inputs=X)
    aa.save(model, tmp_path)
    fresh = with_head(build(), copy.deepcopy(other))
    with pytest.raises(aa.SavingError, match=said):
        aa.restore(tmp_path, model=fresh)
    assert isinstance(fresh.backbone, Encoder)
    assert aa.restore(tmp_path, model=fresh, strict=False) is fresh
    restored = aa.restore(tmp_path, model=with_head(build(), copy.deepcopy(saved)))
    assert torch.equal(restored.eval()(X), model.eval()(X))


def test_a_loss_that_was_put_into_the_model_is_not_asked_for(tmp_path) -> None:
    model = swapped()
    model.loss = nn.CrossEntropyLoss()
    aa.save(model, tmp_path)
    assert torch.equal(aa.restore(tmp_path, model=build())(X), model(X))


def test_a_model_that_several_processes_trained_is_restored_into_one_of_a_single_one(tmp_path) -> None:
    def normed() -> Net:
        return with_head(build(), nn.BatchNorm2d(8))

    model = aa.swap(normed(), "backbone", aa.load("timm:test_resnet"), inputs=X)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    assert isinstance(shared.head, nn.SyncBatchNorm)
    aa.save(shared, tmp_path)
    restored = aa.restore(tmp_path, model=normed())
    assert type(restored.head) is nn.BatchNorm2d
    assert torch.equal(restored.eval()(X), shared(X))


def with_head(model: Net, head: nn.Module) -> Net:
    model.head = head
    return model


def test_a_folder_that_was_changed_is_refused(folder) -> None:
    config = folder / "parts" / "0" / "config.json"
    text = config.read_text()
    config.write_text(text + " ")
    with pytest.raises(aa.SavingError, match="was changed after it was saved"):
        aa.restore(folder, model=build())
    config.write_text(text)
    (folder / "model.json").write_text(json.dumps({"format": "autoadapt.Model"}))
    with pytest.raises(aa.SavingError, match="is malformed"):
        aa.restore(folder, model=build())


def test_an_adapted_module_alone_takes_no_model(tmp_path) -> None:
    aa.save(aa.adapt("timm:test_resnet", like=Encoder(), inputs=X), tmp_path)
    with pytest.raises(aa.SavingError, match="holds no whole model"):
        aa.restore(tmp_path, model=build())


def test_a_folder_in_which_nothing_is_saved_is_said_to_be_that(tmp_path):
    with pytest.raises(aa.SavingError, match="nothing is saved in"):
        aa.restore(tmp_path / "missing", model=nn.Linear(3, 3))


def test_a_model_without_an_adapted_part_is_still_refused(tmp_path) -> None:
    with pytest.raises(aa.SavingError, match="only an adapted module has a plan"):
        aa.save(build(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_whole_model_is_exported_at_every_legal_size_and_run_beside_the_module(tmp_path, ending) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxruntime")
    model = swapped(nn.Conv2d(3, 5, 2, stride=2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = aa.export(model, tmp_path / f"model{ending}", inputs=X)
    assert done.name == "Net"
    assert {one.axis for one in done.ranges} == {"B", "H", "W"}
    assert len({tuple(one.sizes.values()) for one in done.compared}) > 1
    assert all(one.difference < 1e-4 for one in done.compared)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("left", "right"),
    [('"training": {', '"training": {"nobody": true, '), ("head.bias", "head.biat"), ("parts/0", "parts/1")],
)
def test_a_config_with_another_letter_is_refused(folder, left: str, right: str) -> None:
    path = folder / "model.json"
    text = path.read_text()
    assert left in text
    path.write_text(text.replace(left, right, 1))
    fresh = build()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(aa.SavingError, match="was changed after it was saved"):
        aa.restore(folder, model=fresh)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


def resummed(folder, change) -> None:
    """Change a config as somebody would who knows its checksum."""
    content = json.loads((folder / "model.json").read_text())
    content.pop("checksum")
    change(content)
    (folder / "model.json").write_text(json.dumps({**content, "checksum": checksum(content)}))


def test_parts_are_named_once_and_not_without_end(folder) -> None:
    resummed(folder, lambda content: content.update(parts=content["parts"] * 2))
    with pytest.raises(aa.SavingError, match="stands in two parts"):
        aa.restore(folder, model=build())
    resummed(folder, lambda content: content.update(parts=content["parts"] * 1000))
    with pytest.raises(aa.SavingError, match="is malformed"):
        aa.restore(folder, model=build())


def test_weights_that_are_a_pipe_are_refused_and_not_waited_for(folder) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(aa.SavingError, match="no plain file but a pipe or a device"):
        aa.restore(folder, model=build())


def test_a_transposed_buffer_comes_back_and_a_name_that_no_folder_has_is_refused(model: nn.Module, tmp_path) -> None:
    whole = copy.deepcopy(model)
    whole.register_buffer("table", torch.arange(6.0).reshape(2, 3).t())
    aa.save(whole, tmp_path / "net")
    fresh = build()
    fresh.register_buffer("table", torch.zeros(3, 2))
    assert torch.equal(aa.restore(tmp_path / "net", model=fresh).table, whole.table)
    with pytest.raises(aa.SavingError, match="cannot be written, and nothing was done"):
        aa.save(whole, tmp_path / ("y" * 300))


def test_a_part_is_not_saved_over_a_whole_model(tmp_path) -> None:
    model, folder = swapped(), tmp_path / "f"
    aa.save(model, folder)
    with pytest.raises(aa.SavingError, match="holds a whole model, and stays as it was"):
        aa.save(model.backbone, folder)
    assert torch.equal(aa.restore(folder, model=build()).eval()(X), model(X))


def test_a_backbone_that_has_to_be_given_is_told_by_save_and_by_restore(tmp_path) -> None:
    folder, new = tmp_path / "f", nn.Conv2d(3, 5, 2, stride=2)
    model = swapped(new)
    call = f'aa.restore("{folder}", model=build(), new={{"backbone": '
    assert aa.save(model, folder).call == f"{call}backbone}})"
    with pytest.raises(aa.SavingError) as caught:
        aa.restore(folder, model=build())
    assert f"try       {call}Conv2d(...)}})" in str(caught.value)
    assert torch.equal(aa.restore(folder, model=build(), new={"backbone": new}).eval()(X), model(X))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("model", "said"), [(Net, "an instance, not a class"), ("x", "`model` is a text")])
def test_what_is_no_model_is_said_to_be_none(model, said: str, tmp_path) -> None:
    aa.save(swapped(), tmp_path / "f")
    with pytest.raises(aa.SavingError, match=said):
        aa.restore(tmp_path / "f", model=model)


class Pair(nn.Module):
    """Two encoders, and a head whose weight may be one of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Encoder(), Encoder()
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.left(x) + self.right(x.flip(3)))


def test_weights_that_parts_share_with_each_other_and_with_the_rest_are_one_again(tmp_path) -> None:
    new = aa.load("timm:test_resnet")
    model = aa.swap(aa.swap(Pair(), "left", new, inputs=X), "right", new, inputs=X).eval()
    model.head.extra = nn.Conv2d(3, 16, 1)  # runs nowhere
    model.head.extra.bias = next(one for one in model.left.parameters() if one.ndim == 1)
    aa.save(model, tmp_path)
    fresh = Pair()
    fresh.head.extra = nn.Conv2d(3, 16, 1)
    again = aa.restore(tmp_path, model=fresh)
    pairs = zip(again.left.backbone.parameters(), again.right.backbone.parameters(), strict=True)
    assert all(left.data_ptr() == right.data_ptr() for left, right in pairs)
    assert any(again.head.extra.bias is one for one in again.left.parameters())
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert torch.equal(again(X), model(X))
    again.left.train()(X)  # moves the statistics of both
    assert torch.equal(again.left.backbone.conv1[1].running_mean, again.right.backbone.conv1[1].running_mean)


def test_a_part_that_stands_at_two_places_comes_back_at_both(tmp_path) -> None:
    model = Pair()
    model.right = model.left
    model = aa.swap(model, "left", aa.load("timm:test_resnet"), inputs=X).eval()
    aa.save(model, tmp_path)
    again = aa.restore(tmp_path, model=Pair())
    assert again.left is again.right
    assert torch.equal(again(X), model(X))


def test_one_layer_where_two_were_saved_is_refused(tmp_path) -> None:
    model = aa.swap(Net(), "backbone", aa.load("timm:test_resnet"), inputs=X)
    model.again = nn.Conv2d(8, 8, 1)
    aa.save(model, tmp_path)
    fresh = Net()
    fresh.again = fresh.head
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(aa.SavingError, match="one module stands where two were saved, in 2 tensors"):
        aa.restore(tmp_path, model=fresh)
    assert type(fresh.backbone) is Encoder
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_weights_of_a_fresh_model_that_are_one_become_two_where_two_were_saved(tmp_path) -> None:
    model = aa.swap(Net(), "backbone", aa.load("timm:test_resnet"), inputs=X).eval()
    model.again.weight = nn.Parameter(torch.randn(8, 8, 1, 1))
    aa.save(model, tmp_path)
    again = aa.restore(tmp_path, model=Net())
    assert again.again.weight is not again.head.weight
    assert torch.equal(again(X), model(X))


class Gated(nn.Module):
    """Runs its `module`, and something of its own: no wrapper of training."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x).sigmoid()


def test_averaged_weights_of_a_whole_model_are_saved_as_that_model(tmp_path) -> None:
    model_ema = pytest.importorskip("timm.utils.model_ema")
    model = aa.swap(nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Flatten()), "0", nn.Conv2d(3, 5, 2, 2), inputs=X)

    def fresh() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Flatten())

    for wrap in (torch.optim.swa_utils.AveragedModel, model_ema.ModelEmaV2, model_ema.ModelEmaV3):
        averaged = wrap(model)
        aa.save(averaged, tmp_path / wrap.__name__)
        again = aa.restore(tmp_path / wrap.__name__, nn.Conv2d(3, 5, 2, 2), model=fresh())
        assert torch.equal(again(X), averaged(X))
    gated = Gated(model)
    aa.save(gated, tmp_path / "gated")
    with pytest.raises(aa.SavingError, match="not the one that was saved"):
        aa.restore(tmp_path / "gated", nn.Conv2d(3, 5, 2, 2), model=fresh())
    again = aa.restore(tmp_path / "gated", nn.Conv2d(3, 5, 2, 2), model=Gated(fresh()))
    assert torch.equal(again(X), gated(X))
