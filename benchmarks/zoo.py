"""Every architecture of timm, torchvision and transformers, as a plain classifier, adapted like ResNet features.

    python -m benchmarks.zoo                       # all of timm; goes on where it was cut off
    python -m benchmarks.zoo --sample 60 --seed 1  # some of it
    python -m benchmarks.zoo --family torchvision

Models are built without weights on the meta device where they can be; each ends as `exact` (container, order and
shapes equal at four sizes and two batch sizes, and those of the sources as planned), `refused` (with the reason) or
`wrong`. One JSON line a model, then a summary. Taps are compared with timm's `feature_info` twice: as plans are made,
which read that list, and as they would be without it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import capture_source
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.signature import InnerOutput
from autoadapt.contracts.trees import flatten

OUT = Path(__file__).parent / "out"
SECONDS_EACH = 300
STRIDES = (2, 4, 8, 16, 32)


def timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def torchvision_names() -> list[str]:
    """All but optical flow and quantised models, which are no backbones."""
    import torchvision.models as models

    kinds = (models, models.segmentation, models.detection, models.video)
    return [name for kind in kinds for name in models.list_models(module=kind)]


def transformers_names() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return [name for name in MODEL_FOR_BACKBONE_MAPPING_NAMES if name != "timm_backbone"]  # which needs a timm name


FAMILIES: dict[str, Callable[[], list[str]]] = {
    "timm": timm_names,
    "torchvision": torchvision_names,
    "hf": transformers_names,
}


def create(family: str, name: str, device: str) -> tuple[nn.Module, Any]:
    """A model without weights, and inputs where it does not tell its own."""
    with torch.device(device):
        if family == "timm":
            import timm

            return timm.create_model(name), None
        if family == "torchvision":
            return create_torchvision(name)
        return create_transformers(name)


def create_torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision.models as models

    builder = models.get_model_builder(name)
    options = {"weights": None} | ({"weights_backbone": None} if "weights_backbone" in str(builder.__doc__) else {})
    model = models.get_model(name, **options)
    module = builder.__module__
    if ".video" in module:
        return model, torch.empty(2, 3, 16, 224, 224)
    if ".detection" in module:
        return model.backbone, torch.empty(2, 3, 224, 224)
    weights = models.get_model_weights(name)
    sizes = [one.transforms.keywords.get("crop_size", 224) for one in weights] if len(weights) else []
    size = sizes[0] if sizes and isinstance(sizes[0], int) else 224
    return model, torch.empty(2, 3, size, size)


def create_transformers(name: str) -> tuple[nn.Module, Any]:
    from transformers import AutoBackbone, AutoConfig

    default = AutoConfig.for_model(name)
    tiny = {key: value for key, value in TINY.items() if isinstance(getattr(default, key, None), int)}
    lists = (
        {"hidden_sizes": list(default.hidden_sizes)} if isinstance(getattr(default, "hidden_sizes", 0), tuple) else {}
    )
    config = AutoConfig.for_model(name, **tiny, **lists)
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return AutoBackbone.from_config(config), torch.empty(2, 3, height, width)


TINY = {"num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
"""What makes most transformers small; others keep their own size."""


def like_signature(like: str) -> aa.Signature:
    """The contract: feature levels of a timm model."""
    import timm

    return aa.capture(timm.create_model(like, features_only=True))


def trial(family: str, name: str, target: aa.Signature) -> dict[str, Any]:
    """Build, adapt and check one model, on the meta device first."""
    row: dict[str, Any] = {"name": name}
    started = time.perf_counter()
    for device in ("meta", "cpu"):
        try:
            model, inputs = create(family, name, device)
        except Exception as error:
            row |= {"outcome": "not built", "reason": said(error)}
            continue
        row |= {"device": device, "parameters": sum(p.numel() for p in model.parameters())}
        started = time.perf_counter()
        row |= adapted(model, inputs, target, device)
        row["seconds"] = round(time.perf_counter() - started, 2)
        if row["outcome"] == "exact" or row["parameters"] > 1_500_000_000:
            break
    return row


def adapted(model: nn.Module, inputs: Any, target: aa.Signature, device: str) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        source = capture_source(model, target, inputs, inner=True)
        net = in_eval_mode(aa.build(model, aa.plan(source, target)))
        seconds = round(time.perf_counter() - started, 2)
        unlisted = aa.plan(without_list(source), target)
    except aa.AdaptError as error:
        why = error.mismatches[0].why or error.mismatches[0].found if error.mismatches else ""
        return {"outcome": "refused", "reason": f"{error.summary}: {why}"[:300]}
    except Exception as error:
        return {"outcome": "wrong", "reason": said(error)}
    facts = {
        "adapted in": seconds,
        "taps": [route.source for route in net.plan.routes],
        "adapters": net.plan.parameters,
        "levels": compared_levels(model, source, net.plan),
        "levels without the list": compared_levels(model, source, unlisted),
    }
    return facts | checked(net, target, device)


def without_list(source: aa.Signature) -> aa.Signature:
    """A capture that does not know which levels the model lists itself, so that taps are found by evidence alone."""
    inner = tuple(output.model_copy(update={"listed": False}) for output in source.inner)
    return source.model_copy(update={"inner": inner})


def checked(net: nn.Module, target: aa.Signature, device: str) -> dict[str, Any]:
    """Run at four sizes and two batch sizes; outputs, and what the plan says of its sources, are to hold."""
    native, noted = target.sizes(), dict[str, tuple[int, ...]]()
    net.backbone.register_forward_hook(lambda module, args, returned: noted.update(tap_shapes(net.plan, returned)))
    for sizes in ({}, {"H": 221, "W": 200}, {"H": 131, "W": 97}, {"H": 49, "W": 34}):
        for batch in (1, 3):
            at = native | sizes | {"B": batch}
            x = torch.zeros(batch, 3, at["H"], at["W"], device=device)
            try:
                with torch.no_grad(), torch.device(device):
                    found = net(x)
            except Exception as error:
                return {"outcome": "wrong", "reason": f"at {at}: {said(error)}"}
            wanted = [spec.shape(at) for spec in target.outputs.leaves]
            shapes = [tuple(leaf.shape) for leaf in found]
            if type(found) is not list or shapes != wanted:
                return {"outcome": "wrong", "reason": f"at {at}: {shapes}"}
            sources = {route.source: route.specs[0].shape(at) for route in net.plan.routes}
            if any(noted[name] != shape for name, shape in sources.items() if name in noted):
                return {"outcome": "wrong", "reason": f"at {at}: sources {noted}, planned {sources}"}
    return {"outcome": "exact"}


def tap_shapes(plan: aa.Plan, returned: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of what a backbone returned, by the names that the plan gives them."""
    names = tuple(plan.taps) or plan.source.outputs.paths
    return dict(zip(names, (tuple(tensor.shape) for tensor in flatten(returned)[1]), strict=False))


def compared_levels(model: nn.Module, source: aa.Signature, plan: aa.Plan) -> list[dict[str, Any]]:
    """For each level that timm lists by hand: its module, the tap that was chosen, and whether they are one tensor.

    Of several levels at one stride the last counts. A level does not `exist` where the module that is listed is not
    there, or returns no tensor of the channels that are listed.
    """
    info = getattr(model, "feature_info", None)
    listed = {one.get("reduction"): dict(one) for one in (info.info if hasattr(info, "info") else info or [])}
    if len(listed) < 2:
        return []
    tensors = {output.module: identity(output) for output in reversed(source.inner) if output.call == 0}
    tensors |= {output.name: identity(output) for output in source.inner}
    chosen = dict(zip(STRIDES, plan.routes, strict=False))
    rows = []
    for one in listed.values():
        route = chosen.get(one.get("reduction", 0))
        if route is not None and route.octaves < 0.5:
            name, tap = str(one["module"]), route.source
            same = name == tap or tensors.get(name, name) == tensors.get(tap, tap) or stands_for(model, name, tap)
            named = name in dict(model.named_modules()) and returns_channels(source, name, int(one["num_chs"]))
            rows.append({"stride": one["reduction"], "timm": name, "chosen": tap, "agrees": same, "exists": named})
    return rows


def returns_channels(source: aa.Signature, name: str, channels: int) -> bool:
    """Whether a module returns a tensor of that many channels, or several that have them together."""
    returned = [output.spec for output in source.inner if output.module == name and output.call == 0]
    found = [max(dim.constant or 0 for dim in spec.dims) for spec in returned]
    return not returned or channels in found or sum(found) == channels


def stands_for(model: nn.Module, name: str, tap: str) -> bool:
    """Whether the tap is a leaf of the module that timm names, or the last of a list, which is never called itself."""
    if tap.partition(":")[0] == name:
        return True
    listed = dict(model.named_modules()).get(name)
    if not isinstance(listed, nn.ModuleList):
        return False
    return tap.partition(":")[0] == f"{name}.{len(listed) - 1}"


def identity(output: InnerOutput) -> str:
    return output.same_as or output.module


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def serve(connection: Connection, family: str, like: str) -> None:
    """A worker: names in, rows out."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    target = like_signature(like)
    while (name := connection.recv()) is not None:
        try:
            connection.send(trial(family, name, target))
        except Exception as error:  # a benchmark of strangers' code: whatever it raises is a row
            connection.send({"name": name, "outcome": "wrong", "reason": said(error)})


class Worker:
    """A process that tries one model after the other, and is started anew when one takes too long."""

    def __init__(self, family: str, like: str) -> None:
        self.arguments = (family, like)
        self.start()

    def start(self) -> None:
        self.name, self.since = "", 0.0
        self.connection, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve, args=(other, *self.arguments), daemon=True)
        self.process.start()

    def give(self, name: str) -> None:
        self.name, self.since = name, time.monotonic()
        self.connection.send(name)

    def restart(self, reason: str) -> dict[str, Any]:
        row = {"name": self.name, "outcome": "refused", "reason": reason}
        self.process.kill()
        self.start()
        return row


def rows_of(names: list[str], family: str, like: str, processes: int) -> Iterator[dict[str, Any]]:
    """The rows of all names, as they are done."""
    queue = list(reversed(names))
    workers = [Worker(family, like) for _ in range(min(processes, len(names)))]
    for worker in workers:
        worker.give(queue.pop())
    while busy := [worker for worker in workers if worker.name]:
        ready = wait([worker.connection for worker in busy], timeout=1)
        for worker in busy:
            if worker.connection in ready:
                try:
                    yield worker.connection.recv()
                    worker.name = ""
                except EOFError:
                    yield worker.restart("the process died (memory)")
            elif time.monotonic() - worker.since > SECONDS_EACH:
                yield worker.restart(f"took more than {SECONDS_EACH} s")
            if not worker.name and queue:
                worker.give(queue.pop())


LEVELS = {"levels without the list": "found without reading it", "levels": "as plans are made"}
"""What a row holds of levels, and how the summary calls it."""


def summary(rows: list[dict[str, Any]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    built = sum(count for outcome, count in counts.items() if outcome != "not built")
    seconds = sorted(row["seconds"] for row in rows if "seconds" in row)
    lines = [
        f"{outcome:<10} {count:5d}  {100 * count / max(built, 1):5.1f} %" for outcome, count in counts.most_common()
    ]
    if seconds:
        lines.append(
            f"seconds each: median {seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.1f}, all {sum(seconds):.0f}"
        )
    adapted = sorted(row["adapted in"] for row in rows if "adapted in" in row)
    if adapted:
        lines.append(f"of which adapting: median {adapted[len(adapted) // 2]:.2f}, all {sum(adapted):.0f}")
    for key, said in LEVELS.items():
        listed = [level for row in rows for level in row.get(key, [])]
        levels = [level for level in listed if level["exists"]]
        agree = sum(level["agrees"] for level in levels)
        if levels:
            share = f"{agree} of {len(levels)} levels, {100 * agree / len(levels):.1f} %"
            lines.append(f"taps as timm's feature_info, {said}: {share} (and {len(listed) - len(levels)} do not exist)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="timm")
    parser.add_argument("--like", default="resnet50")
    parser.add_argument("--sample", type=int, default=0, help="try this many, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    parser.add_argument("--disagreements", action="store_true", help="list levels that differ from timm's")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    path = OUT / f"zoo-{options.family}-{options.like}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    names = [name for name in FAMILIES[options.family]() if options.only in name]
    if options.sample:
        names = sorted(random.Random(options.seed).sample(names, min(options.sample, len(names))))
    known = {row["name"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    todo = [name for name in names if name not in known]
    with path.open("a") as file:
        for i, row in enumerate(rows_of(todo, options.family, options.like, options.processes) if todo else ()):
            known[row["name"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"{i + 1}/{len(todo)}  {row['name']:<44} {row['outcome']:<9} {row.get('reason', '')}"[:160], flush=True
            )
    rows = [known[name] for name in names]
    print(summary(rows))
    for row in rows:
        for level in row.get("levels without the list", []) if options.disagreements else []:
            if not level["agrees"]:
                print(f"  {row['name']:<40} /{level['stride']:<3} timm {level['timm']:<30} chosen {level['chosen']}")


if __name__ == "__main__":
    main()
