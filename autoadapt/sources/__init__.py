"""Sources: models by name, from zoos, files and packages; nothing that runs foreign code unless the caller allows it.

A scheme is what stands before the colon of `timm:resnet18`. Other packages add schemes through the entry-point group
`autoadapt.sources`.
"""

from autoadapt.sources.code_paths import load_object, names_a_file
from autoadapt.sources.frozen_exports import FrozenExport
from autoadapt.sources.given_models import as_module
from autoadapt.sources.loading import (
    list_models,
    load,
    load_backbone,
    names_weights,
    near_names,
    published,
    refuse_unknown,
)
from autoadapt.sources.zoos import Source, schemes

__all__ = [
    "FrozenExport",
    "Source",
    "as_module",
    "list_models",
    "load",
    "load_backbone",
    "load_object",
    "names_a_file",
    "names_weights",
    "near_names",
    "published",
    "refuse_unknown",
    "schemes",
]
