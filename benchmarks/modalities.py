"""Small models of clips, sounds, texts, graphs and volumes, with random weights, and calls of these.

A family is one pool or several; the models of a pool take the same inputs and stand in each other's place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.modes import in_eval_mode

__all__ = ["FAMILIES", "Pool", "pair_names", "pair_of"]

Makers = Mapping[str, Callable[[], nn.Module]]
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@dataclass(frozen=True)
class Pool:
    """Models that take the same inputs."""

    makers: Makers
    call: Callable[..., dict[str, torch.Tensor]]
    """Makes inputs of a batch or number of nodes, and a length or number of edges; the defaults are the example."""
    others: tuple[tuple[int, int], ...]
    """Further sizes to compare at."""


def hf(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of transformers, from its class without `Model`."""

    def make() -> nn.Module:
        transformers = importlib.import_module("transformers")
        model: nn.Module = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options))
        return model

    return make


# Texts: input_ids [B, N], attention_mask [B, N]
WORDS = {"vocab_size": 50, **SMALL}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "pad_token_id": 0}


class Recurrent(nn.Module):
    """Embedded tokens, read by a recurrent network in both directions; what is hidden is zero."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.layers = kind(width, width, 2, batch_first=True, bidirectional=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        lengths = torch.full((len(input_ids),), input_ids.shape[1]) if attention_mask is None else attention_mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(input_ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        read, _ = nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], True, total_length=input_ids.shape[1])
        return read


class Encoder(nn.Module):
    """torch's own transformer encoder over embedded tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        layer = nn.TransformerEncoderLayer(width, 2, width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden = None if attention_mask is None else attention_mask == 0
        tokens: torch.Tensor = self.encoder(self.embed(input_ids), src_key_padding_mask=hidden)
        return tokens


TEXT: Makers = {
    "bert": hf("Bert", hidden_size=16, **WORDS),
    "roberta": hf("Roberta", hidden_size=24, **WORDS),
    "distilbert": hf("DistilBert", vocab_size=50, dim=12, n_layers=2, n_heads=2, hidden_dim=16),
    "modernbert": hf("ModernBert", hidden_size=20, **ENDS, **WORDS),
    "electra": hf("Electra", hidden_size=24, embedding_size=16, **WORDS),
    "albert": hf("Albert", hidden_size=24, embedding_size=16, **WORDS),
    "deberta-v2": hf("DebertaV2", hidden_size=20, **WORDS),
    "mpnet": hf("MPNet", hidden_size=28, **WORDS),
    "t5 encoder": lambda: importlib.import_module("transformers").T5EncoderModel(
        importlib.import_module("transformers").T5Config(
            vocab_size=50, d_model=20, d_kv=10, d_ff=32, num_layers=2, num_heads=2
        )
    ),
    "llama": hf("Llama", hidden_size=16, num_key_value_heads=2, use_cache=False, **WORDS),
    "lstm": lambda: Recurrent(nn.LSTM, 12),
    "gru": lambda: Recurrent(nn.GRU, 10),
    "torch encoder": lambda: Encoder(16),
}


# Sounds: input_values [B, N] of a wave, or log-mel features [B, F, T]
SPEECH = {
    **SMALL,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
}
WAVES: Makers = {
    "wav2vec2": hf("Wav2Vec2", hidden_size=16, conv_stride=(5, 2, 2), **SPEECH),
    "wavlm": hf("WavLM", hidden_size=12, conv_stride=(5, 2, 2), **SPEECH),
    "hubert": hf("Hubert", hidden_size=20, conv_stride=(5, 2, 2), **SPEECH),
    "unispeech-sat": hf("UniSpeechSat", hidden_size=24, conv_stride=(5, 2, 2), **SPEECH),
    "data2vec": hf("Data2VecAudio", hidden_size=16, conv_stride=(5, 4, 2), **SPEECH),
    "wav2vec2 of half the rate": hf("Wav2Vec2", hidden_size=16, conv_stride=(5, 4, 2), **SPEECH),
    "sew": hf("SEW", hidden_size=16, squeeze_factor=2, conv_stride=(5, 2, 2), **SPEECH),
}


class Spectrogram(nn.Module):
    """Convolutions over mel bands and frames `[B, F, T]`, to vectors of frames `[B, ceil(T/4), C]`."""

    def __init__(self, width: int = 16, recurrent: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.layers = nn.GRU(width, width, batch_first=True, bidirectional=True) if recurrent else None

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        frames: torch.Tensor = self.second(self.first(input_features[:, None])).mean(2).mT
        return frames if self.layers is None else self.layers(frames)[0]


class Ast(nn.Module):
    """An AST, which takes frames before bands."""

    def __init__(self) -> None:
        super().__init__()
        self.model = hf(
            "AST",
            hidden_size=16,
            patch_size=8,
            max_length=64,
            num_mel_bins=32,
            frequency_stride=8,
            time_stride=8,
            **SMALL,
        )()

    def forward(self, input_features: torch.Tensor) -> Any:
        return self.model(input_features.mT)


def whisper(width: int, positions: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        whole = hf(
            "Whisper",
            d_model=width,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=32,
            max_source_positions=positions,
            vocab_size=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )()
        return whole.get_submodule("encoder")

    return make


MELS: Makers = {
    "whisper of 32": whisper(16, 32),
    "whisper of 50": whisper(12, 50),
    "ast": Ast,
    "cnn": Spectrogram,
    "crnn": lambda: Spectrogram(12, recurrent=True),
    "conv1d": lambda: nn.Sequential(nn.Conv1d(32, 16, 5, 2, 2), nn.GELU(), nn.Conv1d(16, 16, 3, 1, 1)),
}


# Clips: [B, C, T, H, W], or frames first
def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module("torchvision").models.video, name)(weights=None, **options)


class Factorised(nn.Module):
    """X3D's kind of block: frames and pixels convolved apart, channel by channel."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, width, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.block = nn.Sequential(
            nn.Conv3d(width, 2 * width, 1),
            nn.Conv3d(2 * width, 2 * width, 3, (1, 2, 2), 1, groups=2 * width),
            nn.BatchNorm3d(2 * width),
            nn.SiLU(),
            nn.Conv3d(2 * width, 2 * width, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.block(self.stem(x))
        return made


class Level(nn.Module):
    """A classifier of torchvision up to its last stage."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*[*torchvision(name)().children()][:5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.trunk(x)
        return made


CLIP = {"image_size": 32, "patch_size": 8, "hidden_size": 24, **SMALL}
CLIPS: Makers = {
    "r3d_18": lambda: Level("r3d_18"),
    "mc3_18": lambda: Level("mc3_18"),
    "x3d style": Factorised,
    "vit of images": lambda: importlib.import_module("timm").create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
    ),
}
FRAMES: Makers = {
    "videomae": hf("VideoMAE", num_frames=8, tubelet_size=2, **CLIP),
    "videomae of 16": hf("VideoMAE", num_frames=16, tubelet_size=2, **CLIP),
    "timesformer": hf("Timesformer", num_frames=8, **CLIP),
    "vivit": hf("Vivit", image_size=32, num_frames=8, tubelet_size=[2, 8, 8], hidden_size=24, **SMALL),
}


# Graphs: x [N, 6], edge_index [2, E]
def geometric(kind: str, width: int, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = importlib.import_module("torch_geometric.nn.models")
        model: nn.Module = getattr(models, kind)(6, width, 2, width, **options)
        return model

    return make


GRAPH: Makers = {
    "gcn": geometric("GCN", 16),
    "graphsage": geometric("GraphSAGE", 12),
    "gin": geometric("GIN", 20),
    "gat": geometric("GAT", 8, heads=2),
    "gatv2": geometric("GAT", 8, heads=2, v2=True),
    "edgecnn": geometric("EdgeCNN", 10),
}


# Volumes: [B, 1, D, H, W]
def monai(kind: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module("monai.networks.nets"), kind)(*args, **options)


class SegResNetEncoder(nn.Module):
    """The levels of a SegResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.net = monai("SegResNet", 3, 8, 1, 2, blocks_down=(1, 1, 1))()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.net.encode(x)[1])  # type: ignore[operator]


class SwinEncoder(nn.Module):
    """The levels of a SwinUNETR."""

    def __init__(self) -> None:
        super().__init__()
        net = monai("SwinUNETR", 1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))()
        self.net = net.get_submodule("swinViT")

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.net(x))  # type: ignore[operator]


VOLUME: Makers = {
    "unet": monai("UNet", 3, 1, 2, (8, 16, 32), (2, 2)),
    "segresnet": SegResNetEncoder,
    "swin": SwinEncoder,
    "vit": monai("ViT", 1, (32, 32, 32), 8, hidden_size=24, mlp_dim=32, num_layers=2, num_heads=2),
    "resnet": monai("resnet10", spatial_dims=3, n_input_channels=1, num_classes=2),
    "densenet": monai("DenseNet", 3, 1, 2, init_features=8, growth_rate=4, block_config=(2, 2)),
    "basicunet": monai("BasicUNet", 3, 1, 2, features=(4, 4, 8, 8, 16, 4)),
}


def words(batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    mask = (torch.arange(length) < torch.linspace(length, length // 2 + 1, batch).long()[:, None]).long()
    return {"input_ids": torch.randint(3, 50, (batch, length)), "attention_mask": mask}


def waves(batch: int = 2, length: int = 1600) -> dict[str, torch.Tensor]:
    mask = (torch.arange(length) < torch.linspace(length, 0.6 * length, batch).long()[:, None]).long()
    return {"input_values": torch.randn(batch, length), "attention_mask": mask}


def clips(batch: int = 1, frames: int = 8) -> dict[str, torch.Tensor]:
    """Clips, or images where these have no frames."""
    return {"x": torch.randn(batch, 3, *[frames] * bool(frames), 64, 64)}


def graph(nodes: int = 12, edges: int = 30) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(nodes, 6), "edge_index": torch.randint(0, nodes, (2, edges))}


FAMILIES: Mapping[str, tuple[Pool, ...]] = {
    "video": (
        Pool(CLIPS, clips, ((2, 12), (2, 0))),
        Pool(FRAMES, lambda batch=1, frames=8: {"pixel_values": torch.randn(batch, frames, 3, 32, 32)}, ((3, 16),)),
    ),
    "audio": (
        Pool(WAVES, waves, ((3, 2000), (1, 1234))),
        Pool(MELS, lambda batch=2, frames=64: {"input_features": torch.randn(batch, 32, frames)}, ((3, 100), (1, 37))),
    ),
    "text": (Pool(TEXT, words, ((3, 14), (1, 5))),),
    "graph": (Pool(GRAPH, graph, ((7, 19), (30, 50))),),
    "volume": (Pool(VOLUME, lambda batch=1, side=32: {"x": torch.randn(batch, 1, side, side, side)}, ((2, 64),)),),
}


def pair_names(family: str) -> list[str]:
    """Of each pool every model in the place of every other: `new for old`."""
    pools = [pool.makers for pool in FAMILIES[family]]
    return [f"{new} for {old}" for makers in pools for old in makers for new in makers if new != old]


def pair_of(family: str, name: str) -> tuple[Pool, nn.Module, nn.Module]:
    """The pool, the new and the old model of a pair, in eval mode, the same each time."""
    new, old = name.split(" for ")
    pool = next(one for one in FAMILIES[family] if {new, old} <= one.makers.keys())
    torch.manual_seed(0)
    return pool, in_eval_mode(pool.makers[new]()), in_eval_mode(pool.makers[old]())
