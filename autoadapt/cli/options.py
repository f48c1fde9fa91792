"""Options: arguments that several commands share, each with its one line of help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from autoadapt.cli.model_names import complete_source
from autoadapt.errors import AdaptError, Mismatch, SignatureError
from autoadapt.files.writing import check_place

SOURCES = (
    "timm:resnet18, torchvision:..., hf:..., smp:..., package.module:factory, file.py:factory, "
    "a folder of adapt --out, net.pt2, or net.py of adapt --source (with --allow)"
)

Model = Annotated[str, typer.Argument(help=SOURCES, autocompletion=complete_source)]
Like = Annotated[
    str,
    typer.Option(
        help="the specification: a model, a saved signature (JSON), or 'f32[B, 256, ceil(H/4), ceil(W/4)]'",
        autocompletion=complete_source,
    ),
]
MaybeLike = Annotated[str | None, Like.__metadata__[0]]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="'f32[2, 3, 224, 224]', x.npy or x.safetensors; once for each argument; NAME=... by name",
    ),
]


def at_home(path: Path | None) -> Path | None:
    """A path with `~` written out, as shells do where it is not quoted."""
    return path if path is None else path.expanduser()


def writable(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """A path where a file can be written, which is made sure of before any work; its folder is made.

    Raises:
        BadParameter: None can be.
    """
    path = at_home(path)
    if path is not None and not context.resilient_parsing:
        try:
            check_place(path, f"--{parameter.name}")
        except AdaptError as error:
            raise typer.BadParameter(error.mismatches[0].found) from error
    return path


def named_path(text: str) -> Path:
    """A path that is no empty text, which would mean the working folder.

    Raises:
        BadParameter: It is empty.
    """
    if not text:
        raise typer.BadParameter("an empty path")
    return Path(text)


def steps(text: str) -> str:
    """A number of steps, or `auto`.

    Raises:
        BadParameter: It is neither.
    """
    if text != "auto" and not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is neither a number from 0 nor auto")
    return text


def writable_folder(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """A folder that files can be written into; as `writable`."""
    path = at_home(path)
    if path is not None:
        if path.is_file():
            raise typer.BadParameter(f"{path} is a file, where a folder is to be written")
        writable(context, parameter, path / "config.json")
    return path


Levels = Annotated[bool, typer.Option("--levels", help="with feature levels, as --like takes a model")]
Html = Annotated[Path | None, typer.Option(help="write a page of it to this file", callback=writable)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
Weights = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--random",
        help="published weights of named models, which may be downloaded, or random ones",
    ),
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="a file or package whose code may run; may be given again")
]
Outputs = Annotated[list[str] | None, typer.Option(help="serve only this output; may be given again")]
Pairs = Annotated[
    list[str] | None, typer.Option("--pair", help="TARGET=SOURCE: the output or inner module that serves one")
]
Refine = Annotated[
    str, typer.Option(metavar="STEPS", help="on the head after the closed form, or auto", callback=steps)
]
Project = Annotated[
    Literal["needed", "always", "places"],
    typer.Option(help="projections where channels differ, always, or a map for each place"),
]
ProjectBias = Annotated[
    bool, typer.Option("--project-bias/--no-project-bias", help="whether projections have an offset")
]
Indices = Annotated[Literal["refuse", "recover"], typer.Option(help="of points, where the new module gives none")]
Thin = Annotated[
    Literal["farthest", "first", "even", "random", "repeat"],
    typer.Option(metavar="HOW", help="of choosing points: farthest, first, even, random"),
]
Grid = Annotated[list[str] | None, typer.Option(help="MODULE=ROWS,COLUMNS,TOKENS of token axes that cannot be read")]
Resolution = Annotated[
    Literal["native", "fixed"] | None,
    typer.Option(
        help="of a model built for one image size: images at their own size, or resized; native where proven",
    ),
]
Channels = Annotated[str | None, typer.Option(help="what is in the channels of the images, such as b,g,r,nir")]
Statistics = Annotated[
    list[str] | None,
    typer.Option(
        help="old=MEAN:STD, new=MEAN:STD of the images that a model takes, numbers by commas, where it tells others",
    ),
]
Fit = Annotated[Literal["pad", "resize"] | None, typer.Option(help="images to a legal size by zeros, or resized")]


def read_pairs(texts: list[str] | None) -> dict[str, str]:
    """`TARGET=SOURCE` texts as a mapping.

    Raises:
        SignatureError: There is no equals sign in one.

    Example:
        >>> read_pairs(["c5=layer4"])
        {'c5': 'layer4'}
    """
    return dict(_parted(text, "--pair c5=layer4") for text in texts or ())


def read_grid(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """`MODULE=ROWS,COLUMNS,LEADING` texts, or `...,TRAILING` as well, as a mapping; None where there are none.

    Raises:
        SignatureError: One is malformed.

    Example:
        >>> read_grid(["blocks.11=14,14,1"])
        {'blocks.11': (14, 14, 1)}
    """
    example = "--grid blocks.11=14,14,1"
    found = {}
    for text in texts or ():
        name, numbers = _parted(text, example)
        sizes = [int(number) for number in numbers.split(",") if number.strip().isdigit()]
        if len(sizes) not in (3, 4):
            raise SignatureError(f"{text} is no grid", [Mismatch(text, "three numbers, or four", numbers, example)])
        found[name] = tuple(sizes)
    return found or None


def read_statistics(texts: list[str] | None) -> dict[str, Any] | None:
    """`SIDE=MEAN:STD` texts as a mapping; None where there are none.

    Raises:
        SignatureError: One is malformed.

    Example:
        >>> print(read_statistics(["old=0.5:0.25,0.5,0.25"])["old"])
        mean 0.5, std 0.25, 0.5, 0.25
    """
    example = "--statistics old=0.485,0.456,0.406:0.229,0.224,0.225"
    found = {}
    for text in texts or ():
        side, numbers = _parted(text, example)
        try:
            mean, std = ([float(number) for number in part.split(",")] for part in numbers.split(":"))
        except ValueError:
            side = ""
        if side not in ("old", "new"):
            fault = Mismatch(text, "old or new, =, means, a colon, standard deviations", text, example)
            raise SignatureError(f"{text} are no statistics of images", [fault])
        from autoadapt.contracts.signature.statistics import Statistics as Told

        found[side] = Told(mean=mean, std=std)
    return found or None


def _parted(text: str, example: str) -> tuple[str, str]:
    left, sign, right = text.partition("=")
    if not (left and sign and right):
        raise SignatureError(f"{text} is malformed", [Mismatch(text, "NAME=VALUE", text, example)])
    return left, right


@dataclass(frozen=True)
class Matching:
    """What `adapt` and `swap` are told of how outputs are served; each an option of its own of every command."""

    outputs: Outputs = None
    pair: Pairs = None
    project: Project = "needed"
    indices: Indices = "refuse"
    thin: Thin = "farthest"
    grid: Grid = None
    resolution: Resolution = None
    fit: Fit = None
    channels: Channels = None
    statistics: Statistics = None

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of `adapt` and `swap`."""
        return {
            "outputs": self.outputs,
            "pairs": read_pairs(self.pair),
            "project": self.project,
            "indices": self.indices,
            "thin": self.thin,
            "grid": read_grid(self.grid),
            "channels": None if self.channels is None else self.channels.split(","),
            "input_statistics": read_statistics(self.statistics),
            "resolution": self.resolution,
            "fit": self.fit,
        }


@dataclass(frozen=True)
class Answer:
    """Whose code may run, and how a command answers; each an option of its own."""

    allow: Allow = None
    html: Html = None
    as_json: AsJson = False
    debug: Debug = False

    @property
    def allowed(self) -> Sequence[str]:
        """Files and packages whose code may run."""
        return self.allow or ()


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer takes it: in place of a dataclass among its arguments stand that class's fields.

    Example:
        >>> def command(name: str, *, answer: Answer) -> None:
        ...     print(name, answer.as_json)
        >>> list(inspect.signature(spread(command)).parameters)
        ['name', 'allow', 'html', 'as_json', 'debug']
        >>> spread(command)(name="a", as_json=True)
        a True
    """
    parameters, kinds = list[inspect.Parameter](), dict[str, Any]()
    for one in inspect.signature(command, eval_str=True).parameters.values():
        if is_dataclass(one.annotation):
            kinds[one.name] = one.annotation
            parameters += inspect.signature(kinds[one.name], eval_str=True).parameters.values()
        else:
            parameters.append(one)
    parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, kind in kinds.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind) if field.name in given})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
