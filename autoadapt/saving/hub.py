"""Hub: adapted modules on the Hugging Face hub, through the mixin of huggingface_hub, which has to be installed.

Not imported with autoadapt: `from autoadapt.saving.hub import HubModel`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.errors import Mismatch, SavingError
from autoadapt.files.reading import one_line
from autoadapt.saving.folder_configs import CONFIG, WEIGHTS
from autoadapt.saving.folders import save
from autoadapt.saving.restoring import restore
from autoadapt.saving.wrappers import adapted_inside
from autoadapt.versions import install_line

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise ImportError(f"huggingface_hub is not installed: {install_line('zoo')}") from error

_CARD = """---
{{ card_data }}
---

An adapted module of autoadapt:

```
{{ plan }}
```

```python
from autoadapt.saving.hub import HubModel

net = HubModel.from_pretrained("this repository").net
```
"""


class HubModel(
    ModelHubMixin,
    model_card_template=_CARD,
    library_name="autoadapt",
    tags=["autoadapt", "backbone", "feature-extraction"],
):
    """An adapted module with `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Args:
        net: The adapted module.
        adapters_only: Save no weights of the backbone.

    Example:
        >>> import tempfile, torch
        >>> from autoadapt.adapting import adapt
        >>> net = adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = HubModel(net).save_pretrained(folder)
        ...     again = HubModel.from_pretrained(folder, new=nn.Conv2d(3, 5, 2, 2)).net
        >>> torch.equal(again.backbone.weight, net.backbone.weight)
        True
    """

    def __init__(self, net: nn.Module, *, adapters_only: bool = False) -> None:
        self.net: AdaptedModule = adapted_inside(net, "HubModel")
        self.adapters_only = adapters_only

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the folder as `save` does, with a model card; `push_to_hub=True` uploads it.

        Raises:
            SavingError: The module cannot be saved; the folder is as it was.
        """
        with tempfile.TemporaryDirectory() as probe:  # the mixin removes an old config before it asks for a new one
            save(self.net, probe, adapters_only=True, check=False)
        card = {"plan": str(self.net.plan), **(options.pop("model_card_kwargs", None) or {})}
        pushed: str | None = super().save_pretrained(save_directory, model_card_kwargs=card, **options)
        return pushed

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.net, save_directory, adapters_only=self.adapters_only)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> HubModel:
        """Restore from a folder or a repository; takes the `new`, `allow` and `strict` of `restore` as well.

        Only the config and the weights are downloaded.

        Raises:
            SavingError: There is no such folder or repository, or it cannot be restored.
        """
        folder = Path(pretrained_model_name_or_path)
        if not os.path.isdir(folder):
            folder = _downloaded(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        return cls(restore(folder, **model_kwargs))


def _downloaded(name: str, **options: Any) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **options))
    except Exception as error:  # of the network, the hub or the cache; each has classes of its own
        expected, remedy = "a folder, or a repository on the hub", "check the name and the network"
        fault = Mismatch(name, expected, one_line(error), remedy)
        raise SavingError(f"{name} cannot be loaded", [fault]) from error
