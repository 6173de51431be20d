"""Statistics of batch norm re-estimated on original views, for validation and for what is kept.

While training, a norm's running statistics are those of random views, mixed with original ones in
whatever proportion the objective uses. The student is used on original views alone.
"""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import update_bn

from pipeline.images.original_view import ImageOptions, normalise
from pipeline.models.encoder import Encoder


class Recalibration(Callback):
    """Holds re-estimated statistics in the encoder during validation, and its own otherwise.

    `images` (N, C, H, W) uint8 are original views of training images. Their statistics are means
    over batches, as `torch.optim.swa_utils.update_bn` computes them. An average of the weights must
    be loaded before: this callback comes after the one that does it, and after those that read the
    encoder at the end of validation.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: Tensor,
        image: ImageOptions,
        *,
        batch_size: int,
        channels_last: bool,
    ) -> None:
        self._encoder = encoder
        # No batch of one image, which has no variance.
        self._batches = torch.tensor_split(images, max(1, len(images) // batch_size))
        self._image = image
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._own: dict[str, Tensor] | None = None
        self._estimated: dict[str, Tensor] = {}

    def statistics(self) -> dict[str, Tensor]:
        """Return the statistics of the last validation, with keys of the encoder's state dict."""
        return self._estimated

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Re-estimate the statistics."""
        self._own = self._buffers()
        device = pl_module.device
        views = (normalise(batch.to(device), self._image) for batch in self._batches)
        # A dropout or drop path draws here, which must not change what training draws.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            update_bn(
                (view.contiguous(memory_format=self._layout) for view in views), self._encoder
            )
        self._estimated = self._buffers()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the encoder's own statistics."""
        if self._own is not None:
            self._load(self._own)
            self._own = None

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer.detach().clone() for name, buffer in self._encoder.named_buffers()}

    @torch.no_grad()
    def _load(self, values: dict[str, Tensor]) -> None:
        for name, buffer in self._encoder.named_buffers():
            buffer.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics of the last validation."""
        return {"estimated": {name: value.cpu() for name, value in self._estimated.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._estimated = state_dict["estimated"]
