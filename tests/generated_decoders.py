"""Decoders generated from concatenation, splitting, addition, convolutions, interpolation and pooling."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

KINDS = ["cat", "chunk", "slice", "add", "sub", "up", "pool", "padded pool", "scale", "conv", "relu conv", "transposed"]

step = st.tuples(st.sampled_from(KINDS), st.integers(0, 7), st.integers(0, 7))
programs = st.lists(step, min_size=1, max_size=7)


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
        if kind in ("cat", "add", "sub") and b is not None:
            other = self.channels.setdefault(f"{name}, b", b.shape[1])
            b = functional.interpolate(b, size=a.shape[2:], mode="bilinear")
            if kind == "cat":
                return [torch.cat([a, b], 1)]
            if other != c:
                return [a]
            return [a + b if kind == "add" else a - b]
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
        return [made[kind]() if kind in made else a]
