"""Pictures and arrays become batches as models were trained on them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoadapt.errors import SourceError
from autoadapt.sources import load, load_backbone
from autoadapt.sources.images import Preprocessing, preprocessing_of, read_images

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; it comes with the zoo extra")
SMALL = {"image_size": 192, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PLAIN = Preprocessing(8, 8, (0.0,) * 3, (1.0,) * 3, 0, "bilinear", "a test")


def picture(height=20, width=30, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cats").mkdir()
    for number in range(5):
        picture(seed=number).save(tmp_path / "cats" / f"{number}.png")
    picture(40, 24, seed=9).save(tmp_path / "dog.JPG", format="jpeg")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_and_the_folders_in_it_come_as_batches(folder):
    images = read_images(folder, PLAIN, count=128, batch=4)
    assert len(images) == 6
    assert images.shape == (4, 3, 8, 8)
    assert [tuple(batch.shape) for batch in images] == [(4, 3, 8, 8), (2, 3, 8, 8)]


def test_batches_can_be_read_again_and_are_a_choice_that_stays(folder):
    first, again = (read_images(folder, PLAIN, count=4, batch=4) for _ in range(2))
    values = [batch for images in (first, first, again) for batch in images]
    assert len(values) == 3
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    other = next(iter(read_images(folder, PLAIN, count=4, batch=4, seed=1)))
    assert not torch.equal(values[0], other)


def test_the_choice_is_not_the_first_files_in_the_order_of_their_names(tmp_path):
    for number in range(40):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number:02}.png")
    found = torch.cat(list(read_images(tmp_path, PLAIN, count=10)))[:, 0, 0, 0] * 255
    assert found.max() > 20
    assert len(set(found.tolist())) == 10


def test_the_middle_is_cut_out_and_standardised():
    values = np.zeros((20, 30, 3), np.uint8)
    values[5:15, 10:20] = 200
    made = Preprocessing(10, 10, (0.5, 0.2, 0.1), (0.5, 0.1, 0.2), 10, "bilinear").apply(Image.fromarray(values))
    expected = torch.tensor([(200 / 255 - 0.5) / 0.5, (200 / 255 - 0.2) / 0.1, (200 / 255 - 0.1) / 0.2])
    torch.testing.assert_close(made, expected[:, None, None].expand(3, 10, 10))


def test_pictures_are_cut_as_timm_cuts_them():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18")
    wanted = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg), is_training=False)
    smooth = picture(12, 16).resize((400, 300), Image.Resampling.BICUBIC)
    made = preprocessing_of(model).apply(smooth)
    assert made.shape == wanted(smooth).shape
    assert float((made - wanted(smooth)).abs().max()) < 0.03


def test_pictures_are_cut_as_torchvision_cuts_them():
    models = pytest.importorskip("torchvision.models")
    wanted = models.get_model_weights("resnet18").DEFAULT.transforms()
    smooth = picture(12, 16).resize((400, 300), Image.Resampling.BICUBIC)
    made = preprocessing_of(load("torchvision:resnet18"), "torchvision:resnet18").apply(smooth)
    assert made.shape == wanted(smooth).shape
    assert float((made - wanted(smooth)).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("timm:test_vit", {}, (160, 160, (0.5,) * 3, "as timm says")),
        ("timm:resnet18", {"features_only": True}, (224, 224, (0.485, 0.456, 0.406), "as timm says")),
        ("timm:resnet18", {"in_chans": 1}, (224, 224, (0.449,), "as timm says")),
        ("torchvision:convnext_tiny", {}, (224, 224, (0.485, 0.456, 0.406), "as torchvision's weights say")),
        (
            "torchvision:ssdlite320_mobilenet_v3_large",
            {},
            (512, 512, (0.0,) * 3, "as torchvision's weights say: the model standardises them"),
        ),
        ("hf:vit", SMALL, (192, 192, (0.485, 0.456, 0.406), "assumed as for ImageNet")),
    ],
    ids=str,
)
def test_the_zoo_tells_how_pictures_are_prepared(source, options, expected):
    pytest.importorskip({"hf": "transformers"}.get(source.partition(":")[0], source.partition(":")[0]))
    model = load(source, **options)
    height, width, mean, told = expected
    found = preprocessing_of(model, source)
    assert (found.height, found.width) == (height, width)
    assert found.mean == pytest.approx(mean, abs=1e-3)
    assert found.told_by.startswith(told)
    assert f"{height}x{width}" in str(found)


@pytest.mark.parametrize("name", ["EfficientNet", "Tvp", "ViT"])
def test_pictures_get_the_values_that_the_image_processor_of_a_checkpoint_makes(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.ResNetModel(transformers.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8))
    kind = getattr(transformers, f"{name}ImageProcessor")
    processor = kind(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], rescale_factor=1 / 127.5)
    processor.save_pretrained(tmp_path)
    one_colour = Image.new("RGB", (224, 224), (200, 100, 30))
    expected = processor(one_colour, return_tensors="pt")["pixel_values"]
    expected = expected.reshape(-1, *expected.shape[-3:])[0]
    made = preprocessing_of(model, f"hf:{tmp_path}").apply(one_colour)
    torch.testing.assert_close(made[:, 9, 9], expected[:, 9, 9], atol=0.02, rtol=0)


def test_models_of_one_colour_see_grey():
    grey = Preprocessing(8, 8, (0.0,), (1.0,), 0, "bilinear")
    assert grey.apply(picture()).shape == (1, 8, 8)
    assert preprocessing_of(load_backbone("timm:resnet18", in_chans=1)).apply(picture()).shape == (1, 224, 224)


def test_bytes_are_pictures_and_floats_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", values.transpose(0, 3, 1, 2))
    save_file({"images": torch.tensor(values), "labels": torch.zeros(5)}, tmp_path / "named.safetensors")
    found = [
        next(iter(read_images(tmp_path / name, PLAIN, count=5)))
        for name in ("last.npy", "first.npy", "named.safetensors")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert sorted(found[0][:, 0, 0, 0].tolist()) == pytest.approx(sorted(values[:, 0, 0, 0] / 255))
    ready = torch.randn(4, 2, 5, 5)
    save_file({"x": ready}, tmp_path / "ready.safetensors")
    (batch,) = read_images(tmp_path / "ready.safetensors", PLAIN, count=4)
    assert sorted(batch[:, 0, 0, 0].tolist()) == sorted(ready[:, 0, 0, 0].tolist())


def test_what_holds_no_images_is_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 5)))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    save_file({"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    (tmp_path / "other.gif").write_bytes(b"GIF89a")
    (tmp_path / "empty").mkdir()
    cases = {
        "flat.npy": "u8[B, H, W, C]",
        "pickled.npy": "Python objects in dtype",
        "two.safetensors": "a, b",
        "other.gif": "found     .gif",
        "empty": "none ending in .jpg",
        "nowhere": "nothing there",
    }
    for name, said in cases.items():
        with pytest.raises(SourceError) as caught:
            read_images(tmp_path / name, PLAIN, count=4)
        assert said in str(caught.value), str(caught.value)


def test_a_broken_picture_is_left_out_and_named(folder):
    (folder / "cats" / "2.png").write_bytes(b"\x89PNG broken")
    (folder / "cats" / "0.png").write_bytes(b"")
    images = read_images(folder, PLAIN, count=128, batch=3)
    assert [len(batch) for batch in images] == [3, 1]
    assert sorted(path.rpartition("/")[2] for path in images.skipped) == ["0.png", "2.png"]
    (said,) = images.remarks()
    assert said.startswith("2 of 6 pictures cannot be read and were left out: ")


def test_where_no_picture_can_be_read_all_are_named(tmp_path):
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"none of 1 pictures can be read") as caught:
        read_images(tmp_path, PLAIN, count=128)
    assert "one.png" in str(caught.value)
