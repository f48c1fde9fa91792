"""The zoo of unusual modules: each by its name, with what is refused about it and why."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.utils import parametrizations
from unusual_attributes import (
    HoldsDeepInside,
    HoldsGenerator,
    HoldsLambda,
    HoldsLock,
    HoldsOpenFile,
    HoldsPythonModule,
    HoldsTorchGenerator,
    HoldsWeakReference,
    RefusesToBeCopied,
)
from unusual_containers import (
    Attributes,
    Checked,
    Derived,
    Frozen,
    Levels,
    Pair,
    Plainly,
    Side,
    Slotted,
    Stacked,
    Swapped,
    Told,
    by_default,
    in_its_parent,
    in_itself,
    labelled,
)
from unusual_modules import (
    Body,
    CachedProperty,
    Complex,
    Decorated,
    DynamicAttribute,
    GlobalTable,
    InPlace,
    KeepsLast,
    Lazy,
    MixedModes,
    NamedLikeMethods,
    Nested,
    NoParameters,
    NoSignature,
    Nothing,
    Number,
    Numpy,
    Raises,
    Recursive,
    ReturnsItself,
    RowsOf,
    SaysNothing,
    Shape,
    SharesLayer,
    Sized,
    TableBySize,
    TakesAttributes,
    ThroughMethods,
    TiedWeights,
    TrainsToNothing,
    Yields,
    always,
    answering,
    attribute_batch,
    backward_hook,
    changing,
    changing_inputs,
    exported,
    holding_script,
    image,
    in_inference,
    normed,
    parametrised,
    scripted,
    stopping,
    traced,
)


@dataclass(frozen=True)
class Unusual:
    """A member of the zoo.

    Args:
        name: What the test is called.
        make: Makes the module.
        refused: Part of the text with which it is refused as an old module; empty where it is exact.
        refused_as_new: The same as a new module; `refused` where left out.
        inputs: An example call.
        open: Why it does not hold yet.
        fails: What `verify` says of it, since it is so of the module alone.
    """

    name: str
    make: Callable[[], nn.Module]
    refused: str = ""
    refused_as_new: str | None = None
    inputs: Callable[[], Any] = image
    open: str = ""
    fails: str = "nothing"


ZOO = [
    Unusual("tuple", Body),
    Unusual("easy dict", answering("Easy", lambda one, two: Attributes(one=one, two=two))),
    Unusual("easy dict inside", answering("EasyIn", lambda one, two: [Attributes(one=one), two])),
    Unusual("argument that is an easy dict", TakesAttributes, inputs=attribute_batch),
    Unusual("defaultdict", answering("Default", by_default), "defaultdict", ""),
    Unusual("list made from other arguments", answering("L", lambda a, b: Levels([2, 4], [a, b])), "Levels", ""),
    Unusual("list with an attribute", answering("La", labelled), "Labelled", ""),
    Unusual("tuple made from two values", answering("P", Pair), "Pair", ""),
    Unusual("named tuple", answering("Nt", Told)),
    Unusual("named tuple in another order", answering("Ch", lambda a, b: Checked(b, a)), "Checked", ""),
    Unusual("dataclass", answering("Dc", Plainly)),
    Unusual("dataclass that swaps its fields", answering("Sw", Swapped), "Swapped", ""),
    Unusual("dataclass that keeps a dict", answering("St", lambda a, b: Stacked([a, b]))),
    Unusual("dataclass with a derived field", answering("De", Derived)),
    Unusual("frozen dataclass", answering("Fr", Frozen)),
    Unusual("dataclass with slots", answering("Sl", Slotted)),
    Unusual("list that holds itself", answering("Self", in_itself), "holds itself", ""),
    Unusual("dict that holds its parent", answering("Parent", in_its_parent), "holds itself", ""),
    Unusual("ordered dict", answering("Od", lambda a, b: OrderedDict(a=a, b=b))),
    Unusual("user dict", answering("Ud", lambda a, b: UserDict(a=a, b=b))),
    Unusual("mapping proxy", answering("Mp", lambda a, b: MappingProxyType({"a": a, "b": b})), "mappingproxy", ""),
    Unusual("namespace", answering("Ns", lambda a, b: SimpleNamespace(a=a, b=b)), "cannot look into"),
    Unusual("set", answering("Set", lambda a, b: {a, b}), "cannot look into"),
    Unusual("tuple keys", answering("Tk", lambda a, b: {("disp", 0): a, ("disp", 1): b}), "no path can name"),
    Unusual("enum keys", answering("Ek", lambda a, b: {Side.LEFT: a, "b": b}), "no path can name"),
    Unusual("integer keys", answering("Ik", lambda a, b: {4: a, 2: b})),
    Unusual("numbers and texts", Sized),
    Unusual("a size in the answer", Shape, "at every input size"),
    Unusual("numpy answer", Numpy, "cannot look into"),
    Unusual("generator answer", Yields, "cannot look into"),
    Unusual("no answer", Nothing),
    Unusual("a number", Number, "", "nothing in Number"),
    Unusual("nested tensor", Nested, "nested tensor"),
    Unusual("complex", Complex),
    Unusual("lock", HoldsLock),
    Unusual("python module", HoldsPythonModule),
    Unusual("generator", HoldsGenerator),
    Unusual("open file", HoldsOpenFile),
    Unusual("lock deep inside", HoldsDeepInside),
    Unusual("torch generator", HoldsTorchGenerator),
    Unusual("weak reference", HoldsWeakReference),
    Unusual("lambda", HoldsLambda),
    Unusual("refuses to be copied", RefusesToBeCopied, "this module owns a connection"),
    Unusual("train returns nothing", TrainsToNothing),
    Unusual("keeps its last answer", KeepsLast),
    Unusual("table by size", TableBySize),
    Unusual("table in an lru_cache", GlobalTable),
    Unusual("cached property", CachedProperty),
    Unusual("deepcopy returns itself", ReturnsItself, "cannot be copied for a view"),
    Unusual("frozen norm in training", MixedModes),
    Unusual("made in inference mode", in_inference),
    Unusual("works in place", InPlace),
    Unusual("attributes on demand", DynamicAttribute),
    Unusual("takes anything", NoSignature),
    Unusual("no gradients", Decorated, fails="detached"),
    Unusual("no parameters", NoParameters, "", "of fixed size 6"),
    Unusual("one layer at two names", SharesLayer),
    Unusual("calls itself", Recursive),
    Unusual("tied weights", TiedWeights),
    Unusual("weight norm", normed(parametrizations.weight_norm)),
    Unusual("spectral norm", normed(parametrizations.spectral_norm)),
    Unusual("orthogonal", normed(parametrizations.orthogonal)),
    Unusual("parametrised", parametrised),
    Unusual("hook that stops", stopping, "hook"),
    Unusual("hook that changes the answer", changing),
    Unusual("hook that changes the input", changing_inputs),
    Unusual("backward hook", backward_hook),
    Unusual("hook that changes the container", always),
    Unusual("lazy layer", Lazy, "run the model once first"),
    Unusual("script module", scripted, "is compiled, so that it cannot be adapted"),
    Unusual("script module inside", holding_script, "is compiled, so that it cannot be adapted"),
    Unusual("fx module", traced),
    Unusual("exported program", exported),
    Unusual("subclass of linear", RowsOf),
    Unusual("method kept as an attribute", ThroughMethods),
    Unusual("names of methods", NamedLikeMethods, "", "equally good"),
    Unusual("raises", Raises, "raises at the given input"),
    Unusual("raises without a word", SaysNothing, "raises at the given input"),
]
