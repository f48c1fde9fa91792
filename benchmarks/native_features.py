"""Features of real photographs, read natively, against the library's own mode for other sizes and against resizing.

    python -m benchmarks.native_features [pattern ...]

Each model is adapted to the contract of a ResNet-50 and reads photographs of 320 x 448. Its features at the blocks that
serve the five levels are compared with those of the same weights in the library's own mode (`dynamic_img_size=True`,
`strict_img_size=False`, `interpolate_pos_encoding=True`): the least cosine of all blocks and photographs. Its five
levels are compared with those of `resolution="fixed"`, behind the same adapters: mean cosine per cell. Weights are
random, with noise in all of them; photographs are those of scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import fnmatch
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import timm
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import autoadapt as aa
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns
from benchmarks.photographs import photograph

SIZE = (320, 448)
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "china.jpg", "flower.jpg")
DYNAMIC = {"dynamic_img_size": True, "dynamic_img_pad": True}
FREE = {"strict_img_size": False}
TIMM = {
    "vit_tiny_patch16_224": DYNAMIC,
    "vit_small_patch14_reg4_dinov2": DYNAMIC,
    "vit_base_patch32_siglip_256": DYNAMIC,
    "deit_tiny_distilled_patch16_224": DYNAMIC,
    "flexivit_small": DYNAMIC,
    "eva02_tiny_patch14_224": DYNAMIC,
    "vit_small_patch16_rope_224": DYNAMIC,
    "swin_tiny_patch4_window7_224": FREE,
    "swinv2_tiny_window8_256": FREE,
}
HUGGING = ("ViT", "DeiT", "CLIPVision", "SiglipVision", "IJepa")
SMALL = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 192}

Read = Callable[[nn.Module, torch.Tensor], object]
Made = tuple[nn.Module, nn.Module, Read]
"""A model of one size, the same weights in the library's own mode, and how that is called."""


def pairs() -> Iterator[tuple[str, Callable[[], Made]]]:
    """Names, and what makes each pair."""
    for name, options in TIMM.items():
        yield f"timm:{name}", lambda name=name, options=options: timm_pair(name, options)
    for kind in HUGGING:
        yield f"transformers:{kind}", lambda kind=kind: hugging_pair(kind)


def timm_pair(name: str, options: dict[str, bool]) -> Made:
    """A model of timm."""
    tied = noisy(timm.create_model(name))
    free = in_eval_mode(timm.create_model(name, **options))
    free.load_state_dict(tied.state_dict())
    return tied, free, lambda model, image: model.forward_features(image)


def hugging_pair(kind: str) -> Made:
    """A small model of transformers, which is asked to interpolate when it is called."""
    config = getattr(transformers, f"{kind}Config")(image_size=224, patch_size=16, **SMALL)
    model = noisy(getattr(transformers, f"{kind}Model")(config))
    return model, model, lambda model, image: model(image, interpolate_pos_encoding=True)


def noisy(model: nn.Module) -> nn.Module:
    """In eval mode, with noise also where weights begin as zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return in_eval_mode(model)


def images(model: nn.Module) -> torch.Tensor:
    """Photographs at one size, scaled as the model wants them where it tells."""
    told = getattr(model, "pretrained_cfg", {})
    mean, std = (torch.tensor(told.get(key, (0.5,) * 3))[:, None, None] for key in ("mean", "std"))
    found = [F.interpolate(photograph(name)[None], SIZE, mode="bilinear", antialias=True) for name in NAMES]
    return (torch.cat(found) - mean) / std


def inner(model: nn.Module, paths: Sequence[str], call: Callable[[], object]) -> list[torch.Tensor]:
    """What inner modules return in a call."""
    found: dict[str, torch.Tensor] = {}

    def note(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: found.update({path: output if torch.is_tensor(output) else output[0]})

    handles = [model.get_submodule(path).register_forward_hook(note(path)) for path in paths]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return [found[path] for path in paths]


def given(net: nn.Module, shown: torch.Tensor) -> torch.Tensor:
    """What the backbone of an adapted module reads of images."""
    found: list[torch.Tensor] = []
    handle = net.backbone.register_forward_pre_hook(lambda _module, args: found.append(args[0]))
    net(shown)
    handle.remove()
    return found[0]


@torch.no_grad()
def row(name: str, make: Callable[[], Made]) -> tuple[str, ...]:
    """What is found of one pair."""
    torch.manual_seed(0)
    tied, free, call = make()
    old = in_eval_mode(timm.create_model("resnet50", features_only=True))
    adapt = partial(aa.adapt, tied, like=old, inputs=torch.zeros(1, 3, *SIZE), convert_inputs=("size",))
    net, fixed = (in_eval_mode(adapt(resolution=how)) for how in ("native", "fixed"))
    fixed.adapters.load_state_dict(net.adapters.state_dict())
    shown = images(tied)
    paths = list(dict.fromkeys(tap.module for tap in net.plan.taps.values() if tap.module))
    ours = inner(net.backbone, paths, lambda: net(shown))
    theirs = inner(free, paths, lambda: call(free, given(net, shown)))
    alike = [float(F.cosine_similarity(a.flatten(1), b.flatten(1)).min()) for a, b in zip(ours, theirs, strict=True)]
    levels = zip(net(shown), fixed(shown), strict=True)
    apart = [float(F.cosine_similarity(native, resized, dim=1).mean()) for native, resized in levels]
    steps = " · ".join(step.op for step in net.plan.inputs[0].steps)
    said = f"{min(alike):.3f}" + (", bit-equal" if all(map(torch.equal, ours, theirs)) else "")
    return name, steps, said, " ".join(f"{one:.3f}" for one in apart)


def main() -> None:
    """Compare every pair and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = [("model", "steps", "native and the library's own mode", "native and fixed, levels 1 to 5")]
    for name, make in pairs():
        if not options.patterns or any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns):
            rows.append(row(name, make))
            print(" | ".join(rows[-1]), flush=True)
    print("\n".join(columns(rows, align="llll")))


if __name__ == "__main__":
    main()
