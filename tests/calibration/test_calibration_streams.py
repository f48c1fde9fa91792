"""Any iterable is data: tar shards, and what streams give, are calibrated on as the images in memory are."""

import io
import tarfile

import numpy as np
import pytest
import torch
from calibration_models import Model, Pyramid, model_with, pictures
from guests import guest
from torch.utils.data import DataLoader, IterableDataset

from autoadapt.calibration import calibrate
from autoadapt.errors import CalibrationError

IMAGES = pictures(24)


@pytest.fixture(scope="module")
def expected():
    return adapters_of([IMAGES])


def adapters_of(data):
    torch.manual_seed(3)
    old, new = Model((4, 6)).eval(), Pyramid((3, 5), seed=1)
    torch.manual_seed(5)
    model = model_with(old, new)
    found = calibrate(model, at="backbone", like=old, data=data, tokens_per_image=20, augment=0)
    assert found.images == len(IMAGES)
    return model.backbone.adapters.state_dict()


def assert_expected(found, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def write_shards(folder, count=3):
    """Samples of one stem in a tar file: an array and a label, as webdataset lays them out."""
    for shard, images in enumerate(IMAGES.split(len(IMAGES) // count)):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as file:
            for number, image in enumerate(images):
                stem = f"{shard * len(images) + number:06d}"
                array = io.BytesIO()
                np.save(array, image.numpy())
                for ending, content in (("npy", array.getvalue()), ("cls", b"3")):
                    entry = tarfile.TarInfo(f"{stem}.{ending}")
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))
    return sorted(folder.glob("*.tar"))


class Shards(IterableDataset):
    def __init__(self, paths):
        self.paths = paths

    def __iter__(self):
        for path in self.paths:
            with tarfile.open(path) as file:
                for entry in file:
                    if entry.name.endswith(".npy"):
                        yield torch.from_numpy(np.load(io.BytesIO(file.extractfile(entry).read()))), 3


def test_tar_shards_read_as_a_stream_are_data(tmp_path, expected):
    assert_expected(adapters_of(DataLoader(Shards(write_shards(tmp_path)), batch_size=5)), expected)


def test_of_a_dict_of_fields_those_are_taken_that_the_model_knows(expected):
    batches = [{"images": part, "label": torch.zeros(len(part))} for part in IMAGES.split(5)]
    assert_expected(adapters_of(batches), expected)


def test_a_dict_without_the_field_that_the_model_needs_is_refused_with_what_to_give():
    with pytest.raises(CalibrationError, match=r"data=\(batch\['image'\] for batch in loader\)"):
        adapters_of([{"image": IMAGES, "label": torch.zeros(24)}])


@pytest.mark.guest
def test_tar_shards_of_webdataset_are_data(tmp_path, expected):
    webdataset = guest("webdataset")
    paths = [str(path) for path in write_shards(tmp_path)]
    stream = webdataset.WebDataset(paths, shardshuffle=False).decode().to_tuple("npy", "cls")
    batches = (
        torch.as_tensor(np.stack([image for image, _ in batch])) for batch in stream.batched(5, collation_fn=list)
    )
    assert_expected(adapters_of(batches), expected)
    assert_expected(adapters_of(DataLoader(stream, batch_size=5)), expected)


@pytest.mark.guest
def test_datasets_that_stream_from_local_files_are_data(tmp_path, expected):
    datasets = guest("datasets")
    rows = {"images": list(IMAGES.numpy()), "label": [3] * len(IMAGES)}
    kinds = {"images": datasets.Array3D(IMAGES.shape[1:], "float32"), "label": datasets.Value("int64")}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    made.to_parquet(tmp_path / "rows.parquet")
    files = str(tmp_path / "rows.parquet")
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path))
    assert_expected(adapters_of(DataLoader(stream.with_format("torch"), batch_size=5)), expected)
