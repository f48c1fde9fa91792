"""Token grids at one image size: read from inner grids, else from which tokens move, else asked for."""

import pytest
import timm
import torch
from guests import guest
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.grids import GridReader
from autoadapt.contracts.capturing.perturbing import locate_tokens, patches
from autoadapt.errors import MatchError


class Unfolded(nn.Module):
    """A transformer of one image size that cuts its patches without a convolution, so that no inner grid tells."""

    def __init__(self, size=(96, 128), registers=4, in_columns=False):
        super().__init__()
        torch.manual_seed(0)
        self.size, self.in_columns = size, in_columns
        self.embed = nn.Linear(3 * 16 * 16, 48)
        self.registers = nn.Parameter(torch.randn(1, registers, 48) * 0.02)
        self.position = nn.Parameter(torch.randn(1, size[0] * size[1] // 256, 48) * 0.02)
        layers = [nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True, norm_first=True) for _ in range(4)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"expected {self.size}")
        x = x.transpose(2, 3) if self.in_columns else x
        tokens = self.embed(nn.functional.unfold(x, 16, stride=16).transpose(1, 2)) + self.position
        tokens = self.blocks(torch.cat([self.registers.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens[:, 0])


def old():
    return timm.create_model("resnet18", features_only=True).eval()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("registers", [0, 1, 4, 9])
def test_tokens_without_an_inner_grid_are_read_from_which_of_them_move(registers):
    x = torch.randn(1, 3, 96, 128)
    new = Unfolded(registers=registers).eval()
    net = aa.adapt(new, like=old(), inputs=x).eval()
    taken = net.plan.routes[-1]
    assert taken.source == "blocks.3"
    assert [step.count for step in taken.steps if step.op == "drop"] == ([registers] if registers else [])
    assert [step.sizes["h"] for step in taken.steps if step.op == "rearrange"] == [6]
    with torch.no_grad():
        shapes = [tuple(level.shape[2:]) for level in net(torch.randn(2, 3, 97, 131))]
    assert shapes == [(-(-97 // s), -(-131 // s)) for s in (2, 4, 8, 16, 32)]


def test_tokens_in_columns_are_read_in_columns():
    new, x = Unfolded(in_columns=True).eval(), torch.randn(1, 3, 96, 128)
    net = aa.adapt(new, like=old(), inputs=x).eval()
    patterns = [step.pattern for step in net.plan.routes[-1].steps if step.op == "rearrange"]
    assert patterns[0].startswith("b (w h) c")
    assert {route.source for route in net.plan.routes} == {f"blocks.{i}" for i in range(4)}


class Alike(Unfolded):
    """All tokens move alike: nothing of a transformer but the mean of its tokens."""

    def forward(self, x):
        x = nn.functional.unfold(x, 16, stride=16).transpose(1, 2)
        tokens = torch.cat([self.registers, self.position], 1)
        return self.head(self.blocks(self.embed(x.mean(1, keepdim=True)) + tokens)[:, 0])


@pytest.mark.slow
def test_tokens_that_all_move_alike_are_asked_for_and_the_answer_is_taken():
    new, x = Alike(), torch.randn(1, 3, 96, 128)
    with pytest.raises(MatchError, match="cannot be read as a grid") as refused:
        aa.adapt(new, like=old(), inputs=x)
    assert "(rows, columns, leading_tokens, trailing_tokens)" in refused.value.mismatches[0].remedy
    assert "0 to 16 other tokens" in refused.value.mismatches[0].expected
    net = aa.adapt(new, like=old(), inputs=x, grid={"blocks.3": (6, 8, 4)})
    assert {route.source for route in net.plan.routes} == {f"blocks.{i}" for i in range(4)}


@pytest.mark.slow
def test_trailing_tokens_are_told_as_the_fourth_number_and_dropped_behind_the_grid():
    new, x = Alike().eval(), torch.randn(1, 3, 96, 128)
    net = aa.adapt(new, like=old(), inputs=x, grid={"blocks.3": (6, 8, 1, 3)}).eval()
    drops = [step for step in net.plan.routes[-1].steps if step.op == "drop"]
    assert [(step.count, step.at_end) for step in drops] == [(1, False), (3, True)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"blocks.3": (6, 8, 1)}, '52 tokens, where 6 x 8 + 1 + 0 = 49; e.g. grid={"blocks.3": (6, 8, 1, 3)}'),
        ({"blocks.3": (6, 8, 1, 4)}, "52 tokens, where 6 x 8 + 1 + 4 = 53"),
        ({"block.3": (6, 8, 4)}, "none of that name"),
        ({"blocks.3": (6, 8)}, "(rows, columns, leading_tokens, trailing_tokens)"),
        ({"blocks.3": (0, 8, 4)}, "(rows, columns, leading_tokens, trailing_tokens)"),
    ],
)
def test_a_grid_that_does_not_fit_its_tensor_is_refused_with_the_numbers(told, said):
    with pytest.raises(aa.CaptureError) as refused:
        aa.adapt(Alike(), like=old(), inputs=torch.randn(1, 3, 96, 128), grid=told)
    assert said.partition("; e.g. ")[0] in str(refused.value)
    assert said.partition("; e.g. ")[2] in str(refused.value)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "path", "grid", "before"),
    [
        ("vit_tiny_patch16_224", "blocks.11", Grid(14, 14), 1),
        ("deit_tiny_distilled_patch16_224", "blocks.6", Grid(14, 14), 2),
        ("vit_small_patch14_reg4_dinov2", "blocks.11", Grid(16, 16), 5),
        ("levit_128s", "stages.0.blocks.0", Grid(14, 14), 0),
        ("xcit_nano_12_p8_224", "blocks.0", Grid(28, 28), 0),
    ],
)
def test_the_reading_by_change_agrees_with_what_is_known_of_real_transformers(name, path, grid, before):
    torch.manual_seed(0)
    options = {"img_size": 224} if "dinov2" in name else {}
    model, taken = timm.create_model(name, **options).eval(), []
    model.get_submodule(path).register_forward_hook(lambda _module, _args, out: taken.append(out))
    with torch.no_grad():
        model(patches(torch.randn(3, 224, 224), grid.cells))
    assert locate_tokens(taken[0], 224, 224) == (grid, before)


def test_tokens_that_all_move_alike_tell_nothing():
    changed = torch.ones(6, 52, 8)
    changed[0] = 0
    assert locate_tokens(changed, 96, 128) is None


def test_what_no_longer_runs_is_counted():
    new = timm.create_model("resnet18")
    plan = aa.adapt(new, like=old(), inputs=torch.randn(1, 3, 64, 64)).plan
    assert plan.cut == ("global_pool", "fc")
    assert plan.saved.parameters == sum(p.numel() for p in new.fc.parameters()) == 513_000
    assert plan.saved.multiply_adds == 512_000
    assert "513k parameters and 512k multiply-adds no longer run" in str(plan)


def test_maps_with_channels_last_are_no_heads_although_their_numbers_would_fit():
    made = [
        (2, 96, 16, 16),
        (2, 16, 16, 96),
        (2, 16, 1536),
        (2, 4, 4, 384),
        (2, 4, 1536),
        (2, 12, 16, 32),
        (2, 16, 384),
    ]
    reader = GridReader(64, 64, shapes=made)
    assert [str(dim) for dim in reader.read((2, 16, 16, 96))] == ["2", "floor(H/4)", "floor(W/4)", "96"]
    assert [str(dim) for dim in reader.read((2, 4, 4, 384))] == ["2", "floor(H/16)", "floor(W/16)", "384"]
    assert [str(dim) for dim in reader.read((2, 12, 16, 32))] == ["2", "12", "16", "32"]


class Cubes(nn.Module):
    """Maps of one square size with as many channels as rows, handed on in some order of their axes."""

    def __init__(self, *axes):
        super().__init__()
        torch.manual_seed(0)
        self.axes = axes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 7, 3, 4, 1))
        self.position = nn.Parameter(torch.zeros(1, 7, 7, 7))

    def forward(self, x):
        return (self.stem(x) + self.position).permute(0, *self.axes)


@pytest.mark.parametrize(
    ("axes", "back"), [((1, 2, 3), (1, 2, 3)), ((1, 3, 2), (1, 3, 2)), ((2, 3, 1), (3, 1, 2)), ((3, 2, 1), (3, 2, 1))]
)
def test_axes_of_equal_size_are_told_apart_by_which_cells_move(axes, back):
    new, image = Cubes(*axes).eval(), torch.randn(2, 3, 112, 112)
    net = aa.adapt(new, like=nn.Conv2d(3, 7, 16, 16), inputs=image)
    assert torch.equal(net.eval()(image), new(image).permute(0, *back))


def test_a_turned_map_is_not_taken_for_one_of_other_axes():
    turned = Cubes(1, 2, 3).eval()
    turned.register_forward_hook(lambda _module, _args, made: torch.rot90(made, 1, (2, 3)))
    spec = aa.capture(turned, torch.randn(2, 3, 112, 112)).outputs.leaves[0]
    assert list(map(str, spec.dims)) == ["B", "7", "floor(H/16)", "floor(W/16)"]


class Regrouping(torch.nn.Module):
    """A stack of convolutions and a classifier that reads `reshape(-1, K)`, as CREPE has it."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Conv1d(1, 4, 8, 8), torch.nn.Linear(32, 5)

    def forward(self, wave):
        return self.head(self.stem(wave[:, None]).transpose(1, 2).reshape(-1, 32))


def test_samples_are_samples_where_longer_inputs_would_give_more_of_them():
    found = aa.capture(Regrouping(), torch.randn(2, 64))
    assert [str(leaf) for leaf in (*found.inputs.leaves, *found.outputs.leaves)] == ["f32[B, 64]", "f32[B, 5]"]


@pytest.mark.guest
@pytest.mark.parametrize("batch", [1, 3])
def test_the_pitch_network_crepe_is_captured_as_it_is_shipped(batch):
    network = guest("torchcrepe").Crepe("tiny").eval()
    found = aa.capture(network, torch.randn(batch, 1024))
    assert [str(leaf) for leaf in (*found.inputs.leaves, *found.outputs.leaves)] == ["f32[B, 1024]", "f32[B, 360]"]
