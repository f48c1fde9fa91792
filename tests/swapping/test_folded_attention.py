"""Attention whose queries, keys or values are adapted outputs: its projections take the new channels."""

import copy
import pickle

import pytest
import torch
from test_folding import assert_alike
from torch import nn

import autoadapt as aa
from autoadapt.swapping.folding.attention import open_attention

X = torch.randn(2, 3, 32, 32)


class Tokens(nn.Module):
    """Two levels of tokens."""

    def __init__(self, *widths):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, width, 4 * 2**i, stride=4 * 2**i) for i, width in enumerate(widths))

    def forward(self, x):
        return [stage(x).flatten(2).transpose(1, 2) for stage in self.stages]


class Attending(nn.Module):
    """Attention between the levels, or of one with itself."""

    def __init__(self, kind, **options):
        super().__init__()
        self.backbone, self.kind = Tokens(12, 16), kind
        widths = {"kdim": 12, "vdim": 12} if kind in ("cross", "probe") else {}
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **widths, **options)
        self.probe, self.head = nn.Parameter(torch.randn(1, 3, 16)), nn.Linear(16, 5)

    def forward(self, x):
        fine, coarse = self.backbone(x)
        queries = {"probe": self.probe.expand(x.shape[0], -1, -1), "values": self.probe.expand(x.shape[0], -1, -1)}
        keys = fine if self.kind in ("cross", "probe") else coarse
        made, weights = self.attention(queries.get(self.kind, coarse), keys, keys)
        return [self.head(made), weights]


def adapted(kind, **options):
    torch.manual_seed(0)
    model = Attending(kind, **options).eval()
    model.backbone = aa.adapt(Tokens(7, 9), like=model.backbone, inputs=X)
    for parameter in model.backbone.adapters.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


PARTS = {"cross": "qkv", "probe": "kv", "self": "qkv", "values": "kv"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", PARTS)
def test_projections_of_attention_take_the_new_channels(kind):
    model = adapted(kind)
    folded = aa.fold(model, inputs=X)
    assert not list(folded.backbone.adapters.parameters())
    assert isinstance(folded.attention, nn.MultiheadAttention)
    widths = {part: getattr(folded.attention, f"{part}_proj").in_features for part in "qkv"}
    assert [part for part in "qkv" if widths[part] in (7, 9)] == list(PARTS[kind])
    assert type(model.attention) is nn.MultiheadAttention
    for size in (32, 40, 64):
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))
    for one in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert_alike(one(X), folded(X))


def test_a_folded_attention_trains_and_is_saved_and_exported(tmp_path):
    folded = aa.fold(adapted("cross"), inputs=X)
    aa.save(folded, tmp_path / "model")
    back = aa.restore(tmp_path / "model", model=Attending("cross").eval(), new=Tokens(7, 9))
    assert_alike(back(X), folded(X))
    assert_alike(torch.export.export(folded, (X,)).module()(X), folded(X))
    folded.train()
    sum(one.mean() for one in folded(X)).backward()
    assert all(p.grad is not None for name, p in folded.named_parameters() if name != "probe")


def test_attention_whose_weight_another_one_has_is_left_as_it_is():
    model = adapted("self")
    model.other = nn.MultiheadAttention(16, 4)
    model.other.in_proj_weight = model.attention.in_proj_weight
    with pytest.raises(aa.BuildError, match="multi_head_attention_forward"):
        aa.fold(model, inputs=X, outputs=["1"])


def test_a_joint_weight_that_is_read_elsewhere_stays_joint():
    model = adapted("self")
    model.head.register_forward_hook(lambda _, args, made: made + model.attention.in_proj_weight.sum())
    with pytest.raises(aa.BuildError, match="multi_head_attention_forward"):
        aa.fold(model, inputs=X, outputs=["1"])


class Encoder(nn.Module):
    """Layers of PyTorch, which read the weights of their parts by name where they take padded sentences."""

    def __init__(self):
        super().__init__()
        self.backbone = Tokens(12, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(12, 5)

    def forward(self, x, padding=None):
        fine, coarse = self.backbone(x)
        return [self.head(fine), self.encoder(coarse, src_key_padding_mask=padding)]


def test_no_projection_is_put_in_front_of_what_an_encoder_of_torch_reads_by_name():
    model = Encoder().eval()
    model.backbone = aa.adapt(Tokens(7, 9), like=model.backbone, inputs=X)
    folded = aa.fold(model.eval(), inputs=X)
    assert [stay.output for stay in folded.backbone.folded.stays] == ["1"]
    padding = torch.arange(16) > torch.tensor([[9], [12]])
    with torch.no_grad():
        assert_alike(folded(X, padding), model(X, padding))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("refit", [True, "shrink"])
def test_attention_is_rebuilt_for_other_channels(refit):
    torch.manual_seed(0)
    model = Attending("cross").eval()
    swapped = aa.swap(model, "backbone", Tokens(7, 9), inputs=X, refit=refit)
    layers = [f"attention.{part}_proj" for part in "qkv"]
    assert set(swapped.backbone.folded.untrained) == set(layers)
    assert [swapped.get_submodule(path).in_features for path in layers] == [9, 7, 7]
    bound = (6 / (16 + 9)) ** 0.5
    assert 0.8 * bound < float(swapped.attention.q_proj.weight.detach().abs().max()) <= bound  # as the class draws it
    assert [tuple(one.shape) for one in swapped(X)] == [(2, 16, 5), (2, 16, 64)]


MASKS = {
    "none": {},
    "truth values": {"attn_mask": torch.ones(4, 6).triu(2) > 0},
    "added": {"attn_mask": torch.randn(4, 6)},
    "for each head": {"attn_mask": torch.randn(2 * 2, 4, 6)},
    "padding": {"key_padding_mask": torch.arange(6) > torch.tensor([[3], [5]])},
    "both": {"attn_mask": torch.randn(4, 6), "key_padding_mask": torch.zeros(2, 6)},
}


@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "options",
    [{}, {"kdim": 5, "vdim": 3}, {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}, {"bias": False}],
)
def test_opened_attention_is_what_it_was(options, mask, asked):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, **options).eval()
    other = copy.deepcopy(plain)
    open_attention(other)
    given = [torch.randn(2, 4, 8), torch.randn(2, 6, plain.kdim), torch.randn(2, 6, plain.vdim)]
    given = given if plain.batch_first else [one.transpose(0, 1) for one in given]
    for left, right in zip(plain(*given, **MASKS[mask], **asked), other(*given, **MASKS[mask], **asked), strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_opened_attention_takes_one_sample_without_a_batch_and_asks_for_the_mask_that_is_announced():
    plain = nn.MultiheadAttention(8, 2).eval()
    other = copy.deepcopy(plain)
    open_attention(other)
    given = [torch.randn(4, 8), torch.randn(6, 8), torch.randn(6, 8)]
    padding = torch.arange(6) > 4
    for left, right in zip(plain(*given, padding), other(*given, padding), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="is_causal hint"):
        other(*given, is_causal=True)
