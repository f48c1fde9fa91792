"""Decoders generated from concatenation, splitting, addition, reading layers, and what treats all channels alike."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

KINDS = [
    *("cat", "chunk", "slice", "add", "sub", "up", "pool", "padded pool", "scale", "conv", "relu conv", "transposed"),
    *("beside", "stack", "flip", "mirror", "map", "mask", "sum", "product", "warp", "unshuffle", "unfold", "tokens"),
    "attention",
]

step = st.tuples(st.sampled_from(KINDS), st.integers(0, 7), st.integers(0, 7))
programs = st.lists(step, min_size=1, max_size=7)


PAIRS = ("cat", "chunk", "slice", "add", "sub", "beside", "stack")


class Attention(nn.Module):
    """Reads tokens by three queries."""

    def __init__(self, _channels, embed_dim, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(embed_dim, **options)

    def forward(self, queries, tokens):
        return self.attention(queries, tokens, tokens)[0].transpose(1, 2)[..., None]


class Levels(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, width, 2**i, stride=2**i) for i, width in enumerate(widths))

    def forward(self, x):
        return [stage(x) for stage in self.stages]


class Decoder(nn.Module):
    """Runs a program over levels of 8, 6 and 12 channels; what is left over goes through a convolution each."""

    def __init__(self, program):
        super().__init__()
        self.backbone, self.program = Levels(8, 6, 12), program
        self.layers, self.channels = nn.ModuleDict(), {}
        self(torch.zeros(1, 3, 16, 16))

    def layer(self, name, kind, channels, out, *args, **kwargs):
        if name not in self.layers:
            self.layers[name] = kind(channels, out, *args, **kwargs)
        return self.layers[name]

    def forward(self, x):
        pool = list(self.backbone(x))
        for number, (kind, i, j) in enumerate(self.program):
            pool += self.step(str(number), kind, pool.pop(i % len(pool)), pool[j % len(pool)] if pool else None)
        return [self.head(str(number), one) for number, one in enumerate(pool)]

    def head(self, number, value):
        size = 1 + 2 * (int(number) % 2)  # so that some of them pad nothing
        return self.layer(f"head{number}", nn.Conv2d, value.shape[1], 4, size, padding=size // 2)(value)

    def step(self, name, kind, a, b):
        c = self.channels.setdefault(name, a.shape[1])  # as a class knows its channels, not as its tensors have them
        if kind in ("cat", "add", "sub", "beside", "stack") and b is not None:
            other = self.channels.setdefault(f"{name}, b", b.shape[1])
            b = functional.interpolate(b, size=a.shape[2:], mode="bilinear")
            if kind == "cat":
                return [torch.cat([a, b], 1)]
            if other != c:
                return [a]
            joined = {
                "add": lambda: a + b,
                "sub": lambda: a - b,
                "beside": lambda: torch.cat([a, b], 2),
                "stack": lambda: torch.stack([a, b], 2).flatten(2, 3),
            }
            return [joined[kind]()]
        if kind == "chunk" and c > 1:
            return list(a.chunk(2, 1))
        if kind == "slice" and c > 3:
            return [a[:, 1 : c // 2], a[:, c // 2 :]]
        made = {
            "up": lambda: functional.interpolate(a, scale_factor=2),
            "pool": lambda: functional.adaptive_avg_pool2d(a, 4),
            "padded pool": lambda: functional.avg_pool2d(a, 3, stride=1, padding=1),
            "scale": lambda: 0.5 * a,
            "conv": lambda: self.layer(name, nn.Conv2d, c, 6, 3, padding=1)(a),
            "relu conv": lambda: self.layer(name, nn.Conv2d, c, 8, 1)(a).relu(),
            "transposed": lambda: self.layer(name, nn.ConvTranspose2d, c, 6, 2, stride=2)(a),
        }
        return [(made | self.over_places(name, a, c))[kind]() if kind not in PAIRS else a]

    def over_places(self, name, a, c):
        """What treats all channels alike, and layers that read the outcome."""
        columns = torch.linspace(0, 1, a.shape[3])
        double, tokens = (lambda: functional.interpolate(a, scale_factor=2)), (lambda: a.flatten(2).transpose(1, 2))
        turned = functional.affine_grid(
            torch.tensor([[[0.8, 0.2, 0.1], [-0.1, 1.1, 0.0]]]), (1, 1, *a.shape[2:]), False
        )
        grid = turned.expand(len(a), -1, -1, -1)
        widths = {"num_heads": 2, "kdim": c, "vdim": c, "batch_first": True}
        return {
            "flip": lambda: a.flip(2),
            "mirror": lambda: functional.pad(a, (1, 0, 0, 1), mode="replicate"),
            "map": lambda: a * columns,
            "mask": lambda: a.masked_fill(columns > 0.5, 0.0),
            "sum": lambda: a.sum(3, keepdim=True),
            "product": lambda: a @ torch.outer(columns, columns).softmax(0),
            "warp": lambda: functional.grid_sample(a, grid, align_corners=False),
            "unshuffle": lambda: self.layer(name, nn.Conv2d, 4 * c, 6, 3, padding=1)(
                functional.pixel_unshuffle(double(), 2)
            ),
            "unfold": lambda: self.layer(name, nn.Conv1d, 4 * c, 6, 1)(functional.unfold(double(), 2))[..., None],
            "tokens": lambda: self.layer(name, nn.Linear, c, 6)(tokens()).transpose(1, 2).unflatten(2, a.shape[2:]),
            "attention": lambda: self.layer(name, Attention, c, 8, **widths)(a.new_ones(len(a), 3, 8), tokens()),
        }
