"""The backbone of ultralytics' models is the first layers of one Sequential, which later layers read by index."""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from guests import guest

import autoadapt as aa

pytestmark = pytest.mark.guest

YAMLS = {"yolov8n": 9, "yolo11n": 10, "yolov5n": 9}
"""The last layer of each backbone."""
NEW = {
    "resnet18": lambda: timm.create_model("resnet18", pretrained=False, num_classes=0),
    "convnext_atto": lambda: timm.create_model("convnext_atto", pretrained=False, num_classes=0),
    "vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(weights=None),
}

PAIRS = [
    ("yolov8n", "resnet18"),
    ("yolo11n", "vit_tiny_patch16_224"),
    ("yolov5n", "convnext_atto"),
    ("yolov8n", "mobilenet_v3_small"),
]


def detector(yaml, kind="DetectionModel"):
    torch.manual_seed(0)
    model = getattr(guest("ultralytics.nn.tasks"), kind)(f"{yaml}.yaml", nc=4, verbose=False)
    hyper = guest("ultralytics.cfg").get_cfg()
    model.args = SimpleNamespace(**vars(hyper))
    return model


def swapped(model, yaml, new):
    base = yaml.partition("-")[0]
    return aa.swap(model, f"model.0:model.{YAMLS[base]}", NEW[new](), inputs=torch.rand(1, 3, 128, 128))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("yaml", "new"), PAIRS)
def test_the_head_returns_what_it_did_at_three_sizes_and_real_losses_train_everything(yaml, new):
    model = detector(yaml)
    old, stride, save = copy.deepcopy(model).eval(), model.stride.clone(), list(model.save)
    swapped(model, yaml, new).eval()
    assert torch.equal(model.stride, stride)
    assert model.save == save
    for height, width in ((128, 128), (160, 96), (64, 192)):
        images = torch.rand(2, 3, height, width)
        with torch.no_grad():
            assert model(images)[0].shape == old(images)[0].shape
    model.train()
    batch = {
        "img": torch.rand(2, 3, 128, 128),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.5]]),
    }
    loss, _ = model(batch)
    loss.sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("yaml", "new"), PAIRS)
def test_copies_fusing_state_dicts_export_and_compilers_take_a_swapped_detector(yaml, new):
    model = swapped(detector(yaml), yaml, new).eval()
    other = copy.deepcopy(model)
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        expected = model(images)[0]
        torch.testing.assert_close(other(images)[0], expected, rtol=0, atol=0)
        for tensor in other.state_dict().values():
            tensor.zero_()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other(images)[0], expected, rtol=0, atol=0)
        compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images)[0], expected, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(copy.deepcopy(model).fuse(verbose=False)(images)[0], expected, rtol=1e-3, atol=1e-2)
        exported = torch.export.export(other, (images,), strict=False).module()
        torch.testing.assert_close(exported(images)[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["SegmentationModel", "PoseModel"])
def test_segmentation_and_pose_models_are_swapped_alike(kind):
    yaml = {"SegmentationModel": "yolov8n-seg", "PoseModel": "yolov8n-pose"}[kind]
    model = detector(yaml, kind)
    old = copy.deepcopy(model).eval()
    swapped(model, yaml, "resnet18").eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        assert _shapes(model(images)) == _shapes(old(images))


def _shapes(value):
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shapes(one) for key, one in value.items()}
    return [_shapes(one) for one in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture
def four_images(tmp_path):
    """Four images with boxes in the format of ultralytics."""
    image_of = guest("PIL.Image").fromarray
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(4):
        pixels = torch.randint(0, 255, (96, 128, 3), generator=generator, dtype=torch.uint8).numpy()
        image_of(pixels).save(tmp_path / "images" / f"{i}.png")
        (tmp_path / "labels" / f"{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.4 0.3\n", encoding="utf-8")
    text = f"path: {tmp_path}\ntrain: images\nval: images\nnames:\n  0: cat\n  1: dog\n"
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # ultralytics' own
@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("yaml", "new"), [("yolov8n", "resnet18"), ("yolo11n", "mobilenet_v3_small"), ("yolov5n", "convnext_atto")]
)
def test_its_trainer_trains_the_swapped_model_whose_adapters_move_and_which_predicts(
    yaml, new, four_images, monkeypatch
):
    guest("ultralytics")
    monkeypatch.chdir(four_images)
    path = Path(__file__).parents[2] / "examples" / "ultralytics_backbone.py"
    example = runpy.run_path(str(path))
    begun = []
    trainer = example["SwappedTrainer"]
    get_model = trainer.get_model

    def noted(self, *args, **kwargs):
        model = get_model(self, *args, **kwargs)
        begun.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return model

    monkeypatch.setattr(trainer, "get_model", noted)
    monkeypatch.setattr(trainer, "region", f"model.0:model.{YAMLS[yaml]}")
    monkeypatch.setattr(trainer, "new", staticmethod(NEW[new]))
    options = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "plots": False, "verbose": False}
    data = str(four_images / "data.yaml")
    model = example["main"](data, yaml=f"{yaml}.yaml", project=str(four_images), optimizer="SGD", **options)
    adapters = [name for name in begun[0] if ".adapters." in name]
    trained = dict(model.trainer.model.named_parameters())
    assert adapters
    assert not [name for name in adapters if torch.equal(trained[name], begun[0][name])]
    assert model.predict(str(four_images / "images" / "0.png"), imgsz=64, verbose=False)[0].boxes is not None
    assert model.val(data=data, imgsz=64, workers=0, verbose=False, plots=False) is not None


@pytest.mark.filterwarnings("ignore")  # ultralytics' own
@pytest.mark.parametrize(("file_format", "options"), [("torchscript", {}), ("onnx", {"simplify": False})])
def test_its_export_writes_files_that_give_the_values_of_the_swapped_model(file_format, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    model = guest("ultralytics").YOLO("yolov8n.yaml")
    swapped(model.model, "yolov8n", "resnet18").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.model(image)[0]
    file = model.export(format=file_format, imgsz=64, verbose=False, **options)
    if file_format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    else:
        found = torch.jit.load(file)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("yaml", "new"), [PAIRS[0], ("yolo11n", "mobilenet_v3_small"), ("yolov5n", "resnet18")])
def test_adapters_are_folded_into_the_neck_and_layers_keep_what_is_read_off_them(yaml, new):
    model = swapped(detector(yaml), yaml, new).eval()
    at = f"model.0:model.{YAMLS[yaml]}"
    net = model.model[0]
    for parameter in net.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() == 1 else parameter.shape[1] ** -0.5)
    folded = aa.fold(model, at=at, inputs=torch.rand(1, 3, 128, 128))
    assert not list(folded.model[0].adapters.parameters())
    assert (folded.model[0].f, folded.model[0].i) == (net.f, net.i)
    for height, width in ((128, 128), (160, 96), (64, 192)):
        images = torch.rand(2, 3, height, width)
        with torch.no_grad():
            left, right = folded(images)[0], model(images)[0]
        assert float((left - right).abs().max() / right.abs().max()) < 1e-5
