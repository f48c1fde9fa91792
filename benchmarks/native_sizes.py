"""Models that were built for one image size, in the contract of a ResNet-50 at other sizes: what holds.

    python benchmarks/native_sizes.py [--traced] [pattern ...]

For each model: whether it is freed of its size, whether it then returns the same at its own size, whether all levels
are exact at 640x480, 97x131 and 224x224; with --traced, whether it compiles without graph breaks for any size, and
exports with sizes that vary. Random weights, no network.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
import warnings
from collections.abc import Callable, Iterator

import timm
import torch
import torchvision
import transformers
from torch import nn

import autoadapt as aa
from autoadapt.contracts.native import lift_of, unproven
from autoadapt.contracts.views import view

SIZES = [(640, 480), (97, 131), (224, 224)]
TIMM = (
    "vit_tiny_patch16_224",
    "vit_base_patch32_clip_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_siglip_256",
    "vit_small_r26_s32_224",
    "flexivit_small",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_224",
    "vitamin_small_224",
    "cait_xxs24_224",
    "pit_ti_224",
    "volo_d1_224",
    "swin_tiny_patch4_window7_224",
    "swin_s3_tiny_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_ns_224",
    "beit_base_patch16_224",
    "beitv2_base_patch16_224",
    "vit_relpos_small_patch16_224",
    "convit_tiny",
    "coat_tiny",
    "tnt_s_patch16_224",
    "visformer_tiny",
    "hiera_tiny_224",
    "xcit_nano_12_p16_224",
    "maxvit_tiny_rw_224",
    "nest_tiny",
    "levit_128s",
    "mixer_s32_224",
    "gmlp_ti16_224",
)
SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
HUGGING = ("ViT", "DeiT", "CLIPVision", "SiglipVision", "IJepa", "Dinov2", "Beit", "ViTMAE")


def models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Names, and what makes each."""
    for name in TIMM:
        yield f"timm:{name}", lambda name=name: timm.create_model(name)
    for kind in HUGGING:
        yield f"transformers:{kind}", lambda kind=kind: hugging(kind)
    for name in ("vit_b_16", "vit_b_32", "vit_l_32", "swin_t"):
        yield f"torchvision:{name}", lambda name=name: getattr(torchvision.models, name)()


def hugging(kind: str) -> nn.Module:
    """A small model of transformers."""
    config = getattr(transformers, f"{kind}Config")(image_size=224, patch_size=16, **SMALL)
    return getattr(transformers, f"{kind}Model")(config)


def row(make: Callable[[], nn.Module], *, traced: bool) -> str:
    """What holds of one model."""
    torch.manual_seed(0)
    model, old = make(), timm.create_model("resnet50", features_only=True)
    model.eval()
    old.eval()
    started = time.perf_counter()
    net = None
    for resolution in ("native", None):
        try:
            net = aa.adapt(model, like=old, inputs=torch.zeros(1, 3, 224, 224), resolution=resolution)
            break
        except aa.AdaptError as error:
            reason = error.mismatches[0].found if error.mismatches else str(error)
    if net is None:
        return f"refused: {reason}"[:160]
    took = time.perf_counter() - started
    steps = " · ".join(step.op for step in net.plan.inputs[0].steps)
    freed = "native" in steps
    net.eval()
    exact = [is_exact(net, old, size) for size in SIZES]
    said = f"{steps or 'nothing'}; own size: {own_size(model) if freed else '-'}; exact: {sum(exact)}/3; {took:.1f} s"
    if not freed and resolution is None:
        said += f"; fixed: {reason}"
    if net.plan.untraced:
        return said + f"; {net.plan.untraced}"
    return said + (f"; {trace(net)}" if traced else "")


def is_exact(net: nn.Module, old: nn.Module, size: tuple[int, int]) -> bool:
    """Whether all levels have the dims of the old ones."""
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        return [one.shape for one in net(image)] == [one.shape for one in old(image)]


def own_size(model: nn.Module) -> str:
    """How the freed view answers at the size that the model was built for, with noise for weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    lift = lift_of(model)
    if lift is None:
        return "-"
    freed = view(model)
    lift.apply(freed)
    image = torch.randn(1, 3, *lift.size)
    with torch.no_grad():
        left, right = (one(image) for one in (model, freed))
    left, right = (one if isinstance(one, torch.Tensor) else one[0] for one in (left, right))
    return "bit-equal" if torch.equal(left, right) else unproven(model, freed, lift.size, 3) or "equal to 1e-6"


def trace(net: nn.Module) -> str:
    """Whether it compiles and exports for sizes that vary."""
    found = []
    image = torch.randn(2, 3, 160, 192)
    with torch.no_grad():
        wanted = net(image)
        for name, make in (("compile", compiled), ("export", exported)):
            try:
                made = make(net)
                close = [torch.allclose(a, b, atol=1e-3, rtol=1e-3) for a, b in zip(made(image), wanted, strict=True)]
                found.append(f"{name}: {'equal' if all(close) else 'differs'}")
            except Exception as error:
                found.append(f"{name}: {type(error).__name__} {(str(error).splitlines() or [''])[0][:80]}")
    return ", ".join(found)


def compiled(net: nn.Module) -> Callable[..., object]:
    """Without graph breaks, for any size."""
    torch._dynamo.reset()
    made = torch.compile(net, fullgraph=True, dynamic=True, backend="eager")
    made(torch.randn(3, 3, 256, 320))
    return made


def exported(net: nn.Module) -> Callable[..., object]:
    """With batch, height and width that vary."""
    dims = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    return torch.export.export(net, (torch.randn(3, 3, 256, 320),), dynamic_shapes=(dims,)).module()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--traced", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name, make in models():
        if not options.patterns or any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns):
            print(f"{name:44} {row(make, traced=options.traced)}", flush=True)


if __name__ == "__main__":
    main()
