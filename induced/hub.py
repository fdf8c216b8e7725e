"""Models on the Hugging Face hub: its mixin, with the files of induced.serialization (extra `hub`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import nn

from induced.errors import CheckpointError, MissingExtra
from induced.serialization import load, save
from induced.serialization.layout import CONFIG, WEIGHTS

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise MissingExtra(f"the hub needs huggingface_hub ({error}): install induced[hub]") from error

__all__ = ["HubModel"]

CARD = f"""---
{{{{ card_data }}}}
---

A model of the library `induced`: `{CONFIG}` names its objects, `{WEIGHTS}` holds their tensors, nothing is pickled.

```python
from induced.hub import HubModel

model = HubModel.from_pretrained("user/repository").module
```
"""


@final
class HubModel(ModelHubMixin, library_name="induced", model_card_template=CARD):
    """A Linearizer, chart, operator or space to share: `HubModel(f).push_to_hub("user/repository")`.

    `push_to_hub` is that of `huggingface_hub.ModelHubMixin`, with its arguments (`private`, `branch`, `create_pr`, `token`,
    ...) and errors. It uploads config.json, model.safetensors and a model card, which replaces the one that is there unless
    `ignore_patterns="README.md"`. No file that is loaded can run code.

    Arguments:
        module: anything that `induced.serialization.save` takes.
        dtype, notes: as of `save`.

    Example:
        >>> import tempfile
        >>> from induced.bijections import Log
        >>> folder = tempfile.mkdtemp()
        >>> HubModel(Log((2,))).save_pretrained(folder)
        >>> HubModel.from_pretrained(folder).module.shape
        (2,)

    Law:
        `HubModel.from_pretrained("user/repository").module(x) == f(x)` bit for bit after
        `HubModel(f).push_to_hub("user/repository")` (laws/test_hub.py)
    """

    def __init__(self, module: nn.Module, *, dtype: torch.dtype | None = None, notes: Mapping[str, Any] | None = None) -> None:
        self.module, self._dtype, self._notes = module, dtype, notes

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str | None:
        """What `push_to_hub` uploads, in a folder: the files of `save`, and a model card where there is none.

        Returns:
            The address of the commit where it is pushed to the hub as well, else None.

        Raises:
            CheckpointError: as `induced.serialization.save`.
        """
        folder = save(self.module, save_directory, dtype=self._dtype, notes=self._notes)
        if not (card := folder / "README.md").exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(card)
        if not push_to_hub:
            return None
        return str(self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **options))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin passes unknown keywords to a constructor
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """The model of a repository, or of a folder that `induced.load` takes; its class is read from its config.json.

        Arguments:
            pretrained_model_name_or_path: "user/repository" or a folder.
            revision: a branch, tag or commit; pin a commit to load the same model for ever.
            token: what a private repository asks for; what `hf auth login` has stored where left out.
            cache_dir: where downloads are kept.
            force_download: download what is there anew.
            local_files_only: use what was downloaded before.

        Raises:
            CheckpointError: no such repository, revision or connection; or as `induced.serialization.load`.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            try:
                folder = Path(
                    snapshot_download(
                        str(pretrained_model_name_or_path),
                        revision=revision,
                        token=token,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        local_files_only=local_files_only,
                        allow_patterns=[CONFIG, WEIGHTS],
                    )
                )
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{pretrained_model_name_or_path}: is no folder, and cannot be fetched from the Hugging Face hub: {error}"
                ) from error
        return cls(load(folder))
