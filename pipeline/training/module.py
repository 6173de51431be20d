"""The LightningModule: it wires encoder, objective and views, and logs. It holds no formula.

Every random draw of a step depends only on the seed, the process and the step's number. So a
resumed run follows the same trajectory as an uninterrupted one.
"""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, distributed
from torch.utils._pytree import tree_map

from pipeline.base.devices import sent
from pipeline.base.errors import NotFiniteError, TrainingError
from pipeline.base.seeds import seed_from
from pipeline.images.original_view import ImageOptions, normalise, normalise_views
from pipeline.images.random_views import build_augmentation
from pipeline.images.view_options import ViewForm
from pipeline.loading.batch import Batch
from pipeline.loading.batch_pixels import random_view
from pipeline.models.encoder import Encoder
from pipeline.objective.objective import Moment, Objective, ObjectiveValue
from pipeline.objective.shared_batch import Activations
from pipeline.objective.view_names import View
from pipeline.representations.representation import Representation
from pipeline.training.collectives import sum_over_processes
from pipeline.training.curve_names import TERM, TRIVIAL, WEIGHT
from pipeline.training.optimisers import build_optimizer
from pipeline.training.schedules import learning_rate
from pipeline.training.step_views import TRAINING, VALIDATION, ViewPlan, view_plan
from pipeline.training.train_options import TrainOptions


class StudentModule(lightning.LightningModule):
    """An encoder learning an objective.

    `live` are the representations that are computed for every batch instead of read from the store.
    They see the image without augmentation, even if both views are augmented. Each step hands the
    labels and a detached h to callbacks: that of the original view, or that of the first view that
    is encoded if this one is not.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        live: Mapping[str, Representation],
        image: ImageOptions,
        options: TrainOptions,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        self._live = dict(live)
        self._plans = {s: view_plan(objective.terms, options, s) for s in (TRAINING, VALIDATION)}
        forms = {form for plan in self._plans.values() for form in plan.drawn.values()}
        self._augmentations = {
            form: build_augmentation(options.augmentation, image, form) for form in forms
        }
        self._image = image
        self._options = options
        self._steps_per_epoch = steps_per_epoch
        self._seed = seed

    def on_fit_start(self) -> None:
        """Move the live representations, not part of the student's state, to its device."""
        for representation in self._live.values():
            representation.to(self.device)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Send a batch from pinned memory, so that the host does not wait for a GPU."""
        return tree_map(lambda x: sent(x, device) if isinstance(x, Tensor) else x, batch)

    def on_validation_epoch_start(self) -> None:
        """Give all processes the batch-norm statistics of the first; each has gathered its own."""
        if self.trainer.world_size > 1:
            for buffer in self.encoder.buffers():
                distributed.broadcast(buffer, 0)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the objective of a batch and, for callbacks, its detached values and features."""
        value, h = self._evaluate(batch, TRAINING, self.trainer.fit_loop.total_batch_idx)
        self._require_finite(value, batch_idx)
        return {
            "loss": value.total,
            "values": _values(value),
            "h": h.detach(),
            "labels": batch["labels"],
        }

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective of a batch outside a run, with the views of a run's first step."""
        return self._evaluate(batch, TRAINING, 0)[0].total

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Log the objective of a validation batch; the encoder is in evaluation mode."""
        value, h = self._evaluate(batch, VALIDATION, batch_idx)
        if not self._plans[VALIDATION].begins_with_original:
            h = self.encoder.features(self._normalised(batch))
        for name, number in _values(value).items():
            self.log(
                f"validation/{name}",
                number,
                on_epoch=True,
                batch_size=len(batch["images"]),
                sync_dist=True,
                logger=False,  # Curves writes the row of an epoch
            )
        return {"h": h, "labels": batch["labels"]}

    def _evaluate(self, batch: Batch, stream: int, number: int) -> tuple[ObjectiveValue, Tensor]:
        if batch["images"].dtype != torch.uint8:
            raise TrainingError(
                "A training batch holds original views as uint8 in [0, 255]; "
                f"found {batch['images'].dtype}."
            )
        torch.manual_seed(seed_from(self._seed, stream, number, self.global_rank))
        plan = self._plans[stream]
        with torch.no_grad():
            views = self._views(batch, plan)
            live: dict[str, Tensor] = {}
            if self._live:
                original = self._normalised(batch)
                live = {name: network(original) for name, network in self._live.items()}
        activations = self._activations(views, plan)
        value = self.objective(
            activations,
            {**self._targets(batch, plan), **live},
            index=batch["index"] if stream == TRAINING else None,
            labels=batch["labels"],
            moment=self._moment(stream, number),
        )
        return value, activations.h[plan.encoded[0]]

    def _views(self, batch: Batch, plan: ViewPlan) -> dict[View, Tensor]:
        """Return the views to encode: random ones as drawn, and otherwise the original view."""
        rest = [view for view in plan.encoded if view not in plan.drawn]
        views = dict.fromkeys(rest, self._normalised(batch)) if rest else {}
        drawn = enumerate(plan.drawn.items())
        return views | {view: self._augmented(batch, n, form) for n, (view, form) in drawn}

    def _targets(self, batch: Batch, plan: ViewPlan) -> dict[str, Tensor | dict[View, Tensor]]:
        """Return the stored targets of a batch, by view where those of stored views are shown."""
        targets: dict[str, Tensor | dict[View, Tensor]] = {**batch["targets"]}
        # An original view keeps its own target.
        for view, drawn in zip(plan.drawn, batch["views"], strict=False):
            for name, rows in (drawn.targets or {}).items():
                known = targets[name]
                by_view: dict[View, Tensor] = (
                    {"original": known} if isinstance(known, Tensor) else known
                )
                targets[name] = {**by_view, view: rows}
        return targets

    def _moment(self, stream: int, number: int) -> Moment:
        """Return where training is; what a step draws is the same in all processes."""
        last = self._options.epochs * self._steps_per_epoch - 1
        progress = self.global_step / max(1, last)
        return Moment(min(1.0, progress), seed_from(self._seed, stream, number))

    def _activations(self, views: Mapping[View, Tensor], plan: ViewPlan) -> Activations:
        all_h, all_z = dict[View, Tensor](), dict[View, Tensor]()
        for names in plan.passes:
            together = [views[name] for name in names]
            images = together[0] if len(together) == 1 else torch.cat(together)
            if self.objective.needs_projector:
                h, z = self.encoder(images)
                all_z.update(zip(names, z.chunk(len(names)), strict=True))
            else:
                h = self.encoder.features(images)
            all_h.update(zip(names, h.chunk(len(names)), strict=True))
        return Activations(all_h, all_z)

    def _normalised(self, batch: Batch) -> Tensor:
        return self._laid_out(normalise(batch["images"], self._image))

    def _augmented(self, batch: Batch, number: int, form: ViewForm) -> Tensor:
        """Return a random view of a form; each number is another one."""
        view = random_view(batch, self._augmentations[form], self.device, number=number)
        return self._laid_out(normalise_views(view, self._image))

    def _laid_out(self, images: Tensor) -> Tensor:
        if self._options.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _require_finite(self, value: ObjectiveValue, batch_idx: int) -> None:
        """Raise NotFiniteError in all processes if the objective of one of them is not finite."""
        numbers = torch.stack([value.total, *value.terms.values()]).detach()
        bad = sum_over_processes((~torch.isfinite(numbers)).float())
        if not bad.any():
            return
        processes, *counts = bad.int().tolist()
        terms = [name for name, n in zip(value.terms, counts, strict=True) if n]
        world = self.trainer.world_size
        where = f", in {processes} of {world} processes" if world > 1 else ""
        raise NotFiniteError(
            f"The objective is not finite at step {self.global_step + 1} (epoch "
            f"{self.current_epoch + 1}, batch {batch_idx + 1}), in {', '.join(terms) or 'the sum'}"
            f"{where}."
        )

    def configure_optimizers(self) -> Any:
        """Build the optimiser, and a schedule that counts optimiser steps."""
        options = self._options
        named = [*self.encoder.named_parameters(), *self.objective.named_parameters()]
        slower = {} if options.backbone_lr == 1 else {"backbone.": options.backbone_lr}
        optimizer = build_optimizer(named, options.optimizer, lr=options.lr, lr_factors=slower)

        def factor(step: int) -> float:
            rate = learning_rate(
                step,
                base_lr=options.lr,
                total_steps=options.epochs * self._steps_per_epoch,
                steps_per_epoch=self._steps_per_epoch,
                options=options.schedule,
            )
            return rate / options.lr

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _values(value: ObjectiveValue) -> dict[str, Tensor]:
    """Return the objective and its terms, detached, with the names of the curves as keys.

    Weights that change and, in validation, trivial answers stand beside the terms.
    """
    total = value.total.detach()
    terms = {f"{TERM}{name}": term.detach() for name, term in value.terms.items()}
    weights = {
        # Unlike `torch.tensor`, this does not make a device wait for a copy.
        f"{WEIGHT}{name}": torch.full((), weight, device=total.device)
        for name, weight in value.weights.items()
    }
    trivial = {f"{TRIVIAL}{name}": answer for name, answer in value.trivial.items()}
    return {"objective": total, **terms, **weights, **trivial}
