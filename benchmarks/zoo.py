"""Every architecture of timm, torchvision and transformers, as a plain classifier, adapted like ResNet features.

    python -m benchmarks.zoo                       # all of timm; goes on where it was cut off
    python -m benchmarks.zoo --sample 60 --seed 1  # some of it
    python -m benchmarks.zoo --family torchvision
    python -m benchmarks.zoo --family unlisted --most 10 --models 'transformers/*'
    python -m benchmarks.zoo --family text         # or video, audio, graph, volume: small models in each other's place

Models are built without weights on the meta device where they can be; each ends as `exact` (container, order and
shapes equal at four sizes and two batch sizes, and those of the sources as planned), `refused` (with the reason) or
`wrong`. One JSON line a model, then a summary. Taps are compared with timm's `feature_info` twice: as plans are made,
which read that list, and as they would be without it. The family `unlisted` brings no such list; its taps are compared
with a table made by reading each model (`judged_levels.py`), like ResNet-18, of which the last level alone is asked of
models of one stride.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.zoo_families import FAMILIES
from benchmarks.zoo_running import rows_of

OUT = Path(__file__).parent / "out"
LEVELS = {
    "levels without the list": "taps as timm's feature_info, found without reading it",
    "levels": "taps as timm's feature_info, as plans are made",
    "judged levels": "taps as judged by reading",
}
"""What a row holds of levels, and how the summary calls it."""


def summary(rows: list[dict[str, Any]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    built = sum(count for outcome, count in counts.items() if outcome != "not built")
    lines = [
        f"{outcome:<10} {count:5d}  {100 * count / max(built, 1):5.1f} %" for outcome, count in counts.most_common()
    ]
    return "\n".join([*lines, *times(rows), *kept(rows), *agreements(rows)])


def times(rows: list[dict[str, Any]]) -> Iterator[str]:
    seconds = sorted(row["seconds"] for row in rows if "seconds" in row)
    if seconds:
        yield f"seconds each: median {seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.1f}, all {sum(seconds):.0f}"
    adapted = sorted(row["adapted in"] for row in rows if "adapted in" in row)
    if adapted:
        yield f"of which adapting: median {adapted[len(adapted) // 2]:.2f}, all {sum(adapted):.0f}"


def kept(rows: list[dict[str, Any]]) -> Iterator[str]:
    shares = sorted((row["kept"], row["name"]) for row in rows if row.get("kept") is not None)
    if shares:
        low = sum(share < 0.95 for share, _ in shares)
        (least, name), (median, _) = shares[0], shares[len(shares) // 2]
        told = f"median {100 * median:.0f} %, least {100 * least:.0f} % ({name}), below 95 % in {low} of {len(shares)}"
        yield f"kept share: {told}"


def agreements(rows: list[dict[str, Any]]) -> Iterator[str]:
    for key, told in LEVELS.items():
        listed = [level for row in rows for level in row.get(key, [])]
        levels = [level for level in listed if level["exists"]]
        agree = sum(level["agrees"] for level in levels)
        if levels:
            share = f"{agree} of {len(levels)} levels, {100 * agree / len(levels):.1f} %"
            yield f"{told}: {share} (and {len(listed) - len(levels)} do not exist)"


def disagreements(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        for level in [*row.get("levels without the list", []), *row.get("judged levels", [])]:
            if not level["agrees"]:
                right = level.get("timm") or " or ".join(level["judged"])
                yield f"  {row['name']:<40} /{level['stride']:<4} {right:<60} chosen {level['chosen']}"


def chosen_names(options: argparse.Namespace) -> list[str]:
    names = [name for name in FAMILIES[options.family]() if fnmatchcase(name, options.models)]
    if options.sample:
        names = sorted(random.Random(options.seed).sample(names, min(options.sample, len(names))))
    return names[: options.most] if options.most else names


def tried(names: list[str], path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all names: those in the file, and the rest, which are added to it as they are done."""
    known = {row["name"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    todo = [name for name in names if name not in known]
    with path.open("a") as file:
        for i, row in enumerate(rows_of(todo, options.family, options.like, options.processes) if todo else ()):
            known[row["name"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            line = f"{i + 1}/{len(todo)}  {row['name']:<44} {row['outcome']:<9} {row.get('reason', '')}"
            print(line[:160], flush=True)
    return [known[name] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="timm")
    parser.add_argument("--like", default="", help="resnet50, or resnet18 for the family `unlisted`")
    parser.add_argument("--models", default="*", metavar="GLOB", help="names that match this")
    parser.add_argument("--most", type=int, default=0, help="no more than this many")
    parser.add_argument("--sample", type=int, default=0, help="try this many, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    parser.add_argument("--disagreements", action="store_true", help="list levels that differ from the list or table")
    options = parser.parse_args()
    options.like = options.like or ("resnet18" if options.family == "unlisted" else "resnet50")
    OUT.mkdir(exist_ok=True)
    path = OUT / f"zoo-{options.family}-{options.like}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    rows = tried(chosen_names(options), path, options)
    print(summary(rows))
    if options.disagreements:
        print(*disagreements(rows), sep="\n")


if __name__ == "__main__":
    main()
