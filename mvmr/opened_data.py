"""Packed images with their stored features: samples by number, and batches of both."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from os import fspath
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from mvmr.arrays import Bar, Count, Folder, PathText, watched
from mvmr.given_arguments import AtLeast
from mvmr.open_handles import OpenHandles
from mvmr.opened_store import FeatureStore, require_these_shards
from mvmr.public_calls import STARTS_OVER, public, resumable, words_of_python
from mvmr.seen_image import packed_for, say_packed_for
from pipeline.base.arguments import place_of, require_place
from pipeline.base.errors import (
    ArgumentError,
    ConfigError,
    DataError,
    StaleFeatureError,
    unknown_name,
)
from pipeline.base.locations import Location, location
from pipeline.base.options import checked_by
from pipeline.base.progress import Silent
from pipeline.datasets.source import SPLITS, Split
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.store import StoredFeature
from pipeline.images.cutting import original_view_of
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import Batch, Loader, SplitData, label_tensor
from pipeline.loading.loaders import LoadingOptions, OrderedLoader, training_loader
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import read_labels, read_names
from pipeline.shards.manifest import Manifest
from pipeline.shards.packing import packed_manifests
from stages.experiment.paths import DatasetLayout, name_of
from stages.experiment.schema import FeatureSection, PackingOptions
from stages.steps.pack_images import pack_images
from stages.steps.store_features import store_features

# Mean and deviation of ImageNet's training images; of their grey versions.
IMAGENET = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: ((0.449,), (0.226,)),
}
Features = Sequence[str] | Mapping[str, "RepresentationOptions | Mapping[str, Any]"]


@public
def Image(  # noqa: N802  # it is named as what it returns
    size: int,
    *,
    resize: int | None = None,
    channels: Literal[1, 3] = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageOptions:
    """Return how the student sees an image: `size` pixels a side, cut from the centre.

    The shorter side is first resized to `resize`, by default to `size`. Mean and deviation, of
    values in [0, 1], are those of ImageNet unless given.

    >>> mvmr.Image(96, resize=110).mean
    (0.485, 0.456, 0.406)
    """
    usual = IMAGENET.get(channels, IMAGENET[3])
    content = {
        "size": size,
        "resize": resize,
        "channels": channels,
        "mean": tuple(usual[0] if mean is None else mean),
        "std": tuple(usual[1] if std is None else std),
    }
    found: ImageOptions = checked_by(ImageOptions, content, "image")
    return found


@resumable(STARTS_OVER)
def pack(
    images: PathText | Mapping[str, Any],
    out: Folder,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    split: Mapping[str, Any] | None = None,
    samples: Count = 1000,
    on_bad_image: Literal["fail", "skip"] = "fail",
    image: ImageOptions | None = None,
    force: bool = False,
    progress: Bar = None,
) -> "Dataset":
    """Pack images into shards in the folder `out`, or bring shards there up to date.

    `images` is a folder, whose class folders become labels and whose split folders become splits,
    or a source as in an experiment file, such as `{"kind": "cifar10", "root": "data"}`. Shares of
    the training images become `validation` and `test`, unless the source has such splits; `split`
    holds further options. `samples` is the number of images per tar. How the student is to see the
    images, `image`, is kept beside the shards, which hold the files as they are: whoever opens the
    data set without saying otherwise sees them so. `force` packs all images anew. Raises DataError
    if an image cannot be decoded, or if `out` holds shards of another source or other files.
    """
    source = _source(images)
    shares = {"seed": seed, "validation": validation, "test": test, **(split or {})}
    content = {
        "name": name_of(fspath(out)),
        "source": source,
        "split": shares,
        "shards": {"samples": samples, "on_bad_image": on_bad_image},
    }
    options: PackingOptions = checked_by(PackingOptions, content, "images")
    layout = DatasetLayout(location(fspath(out)))
    _require_place(layout, source)
    require_same_source(options, layout)
    with watched(progress) as bar:
        pack_images(options, layout, bar, force=force)
    if image is not None:
        say_packed_for(layout, image)
    return open_dataset(out)


@resumable()
def extract(
    features: Mapping[str, RepresentationOptions | Mapping[str, Any]],
    data: "Dataset",
    *,
    workers: Count | None = None,
    scheduler: str | None = None,
    batch_size: Count | None = None,
    force: bool = False,
    progress: Bar = None,
) -> "Dataset":
    """Compute features once an image, into the store of `data`, and return `data` with them.

    `features` maps names to a teacher (`mvmr.teacher`), or to options as in an experiment file:
    `{"scattering": {"J": 2, "reduce": {"pca": 256}}, "clip": {"kind": "open_clip", ...}}`. What is
    stored already is left alone, unless `force` computes it again. A local Dask cluster of
    `workers` processes computes, or the one of the `scheduler`; what was handed over in memory is
    computed in this process. `batch_size` is how many images a network takes at once, by default as
    many as suit its device. Raises StoreError for the name of rows that were put there, without
    `force`.
    """
    data.require_current()
    options = feature_options(features)
    with watched(progress) as bar:
        store_features(
            options,
            data.require_image(),
            data.layout,
            bar,
            cluster=ClusterOptions(workers, scheduler, batch_size),
            force=force,
        )
    both = {**data.specifications, **options}
    return Dataset(
        data.layout, data.manifests, data.image, {**data.features, **_stored(data, options)}, both
    )


@public
def open_dataset(
    path: PathText,
    *,
    features: Features = (),
    image: ImageOptions | None = None,
) -> "Dataset":
    """Open packed images with stored features.

    `features` are names, or options by name as in an experiment file, which are then compared with
    what is stored. Without an `image`, images are as the features were computed for, or else as
    they were packed for. Raises StaleFeatureError if a feature is of other images, or was computed
    from images prepared otherwise; DataError if nothing is packed at `path`.
    """
    layout = DatasetLayout(location(fspath(path)))
    manifests = packed_manifests(layout.shards)
    if not manifests:
        raise DataError(f"There are no packed images at {fspath(path)!r}: mvmr.pack(folder, path).")
    options = feature_options(features) if isinstance(features, Mapping) else {}
    store = FeatureStore(fspath(path))
    found = {name: store[name] for name in features}
    image = image or _seen_by(found) or packed_for(layout) or _common_image(found)
    bare = Dataset(layout, manifests, image, {}, {})
    if options:
        found = _stored(bare, options)
    for feature in found.values():
        require_these_shards(feature, manifests)
        _require_this_image(feature, image)
    return Dataset(layout, manifests, image, found, options)


@dataclass(frozen=True)
class LabelledImage:
    """One image (C, size, size), uint8, with its stored targets (width,), its label and its name.

    A label is a class, the classes of an image that may show several, or None.
    """

    image: Tensor
    targets: Mapping[str, Tensor]
    label: int | tuple[int, ...] | None
    name: str
    index: int


@dataclass(frozen=True, repr=False)
class Dataset:
    """Packed images by split, with stored features: `data["train"][7]`, `data.loader("train")`.

    `specifications` are the options that features were compared with, if any were given.
    """

    layout: DatasetLayout
    manifests: Mapping[Split, Manifest]
    image: ImageOptions | None
    features: Mapping[str, StoredFeature]
    specifications: Mapping[str, RepresentationOptions]

    @property
    def path(self) -> Location:
        """The folder of shards and store."""
        return self.layout.root

    @property
    def shards(self) -> Location:
        """The folder of the shards."""
        return self.layout.shards

    @property
    def work(self) -> Location:
        """The folder of unfinished features."""
        return self.layout.work

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty without labels."""
        return self.manifests["train"].classes or ()

    @property
    def store(self) -> FeatureStore:
        """All stored features of the data set, also those that were not opened."""
        return FeatureStore(str(self.path))

    @cached_property
    def _handles(self) -> OpenHandles:
        return OpenHandles(self.path, self.shards, self.manifests, self.features)

    def require_current(self) -> None:
        """Raise DataError if its images or features have changed since they were opened."""
        self._handles.require_current()

    def require_image(self) -> ImageOptions:
        """Return how images are seen. Raises ConfigError if nobody has said so."""
        if self.image is None:
            raise ConfigError(
                "It is not known how to see the images of this data set: open it with "
                "image=mvmr.Image(size)."
            )
        return self.image

    @public
    def __getitem__(self, split: str) -> "DatasetSplit":
        if split not in self.manifests:
            raise DataError(unknown_name("split", split, self.manifests))
        name: Split = next(s for s in SPLITS if s == split)
        image, shards = self.require_image(), self.shards / name
        data = SplitData(shards, self.manifests[name], self.features, image)
        self.require_current()
        return DatasetSplit(data, self._handles)

    @public
    def loader(
        self,
        split: str = "train",
        *,
        batch_size: Count = 256,
        seed: int = 0,
        workers: Annotated[int, AtLeast(0)] = 2,
        mode: Literal["auto", "resident", "streaming"] = "auto",
        shuffle: bool | None = None,
        progress: Bar = None,
    ) -> Loader:
        """Return batches of a split; each iteration is the next epoch.

        A batch has `images` (B, C, size, size) as uint8, `labels` (B,), -1 for none, `index` (B,)
        within the split, and `targets`, rows (B, width) by the name of a feature.

        Training images are shuffled, unless `shuffle` says otherwise: their order depends on `seed`
        and epoch alone, and images that do not fill a batch are left out, others in each epoch.
        Images of other splits come in order, all of them, in batches of nearly equal size of at
        most `batch_size`.
        """
        data, shuffled = self[split].data, split == "train" if shuffle is None else shuffle
        options = LoadingOptions(mode=mode, workers=workers)
        loader: Loader
        with watched(progress) as bar:
            if shuffled:
                loader = training_loader(
                    data, options, batch_size=batch_size, seed=seed, progress=bar
                )
            else:
                loader = OrderedLoader(data, options, batch_size=batch_size, progress=bar)
        return _CurrentBatches(loader, self._handles)

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12}{text}" for name, text in self._facts())

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{n}</th><td>{escape(t)}</td></tr>" for n, t in self._facts())
        return f"<table>{rows}</table>"

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "Dataset", str(self.path)
        for split, manifest in self.manifests.items():
            lost = len(manifest.invalid) - sum(len(shard.gone) for shard in manifest.shards)
            left_out = f"; {lost:,} more cannot be read" if lost else ""
            labelled = min(manifest.labelled, manifest.valid)
            yield split, f"{manifest.valid:,} images, {labelled:,} with a label{left_out}"
        if self.classes:
            more = ", ..." if len(self.classes) > 5 else ""
            yield "classes", f"{len(self.classes)}: {', '.join(self.classes[:5])}{more}"
        if self.image is not None:
            yield "image", self._image_in_words(self.image)
        for name, feature in self.features.items():
            yield "feature", f"{name}: {feature.width} numbers, {feature.stored_type}"

    def _image_in_words(self, image: ImageOptions) -> str:
        said = packed_for(self.layout)
        unlike = "" if said in (None, image) else f"; packed for {said.size} px"
        return f"{image.size} px, {image.channels} channels{unlike}"


class _CurrentBatches(Loader):
    """The batches of a loader, as long as what it reads is what was opened."""

    def __init__(self, loader: Loader, handles: OpenHandles) -> None:
        super().__init__(len(loader))
        self._loader, self._handles = loader, handles

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        self._loader.load_state_dict({"epoch": epoch, "delivered": skip})
        with words_of_python():
            self._handles.require_current()
            yield from self._loader


class DatasetSplit(Sequence[LabelledImage]):
    """The valid images of a split in their order: `split[7]`, `for image in split`.

    Raises DataError if images or features have changed since the data set was opened.
    """

    def __init__(self, data: SplitData, handles: OpenHandles) -> None:
        self.data = data
        self._index = data.indices()
        self._handles = handles

    def __len__(self) -> int:
        return len(self._index)

    @property
    @public
    def names(self) -> list[str]:
        """The name of each image in its source."""
        self._handles.require_current()
        return self._names

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why images cannot be read, by name, of the first ones that cannot."""
        return self.data.manifest.left_out

    @property
    @public
    def labels(self) -> Tensor:
        """Labels (N,) int64, -1 for none; (N, K) int8 if an image may show several classes."""
        self._handles.require_current()
        return self._labels

    @cached_property
    def _names(self) -> list[str]:
        names = read_names(self.data.directory, self.data.manifest)
        return [names[row] for row in self._index]

    @cached_property
    def _labels(self) -> Tensor:
        labels = read_labels(self.data.directory, self.data.manifest)
        return label_tensor(labels, self.data.manifest)[self._index]

    @public
    def features(self, name: str) -> Tensor:
        """Return the rows (N, width) of an opened feature, as stored."""
        self._handles.require_current()
        if name not in self.data.features:
            raise DataError(
                f"{unknown_name('opened feature', name, self.data.features)} What is stored is "
                f"opened by mvmr.open_dataset(path, features=[{name!r}])."
            )
        rows = self.data.features[name].read(self.data.manifest.split)
        return torch.from_numpy(rows)[self._index]

    @public
    def __getitem__(self, number: Any) -> Any:
        """Return an image by its number, or a list of them for a slice."""
        require_place(number, "Images")
        self._handles.require_current()
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        place = place_of(number, len(self), f"images in {self.data.manifest.split}")
        shard, row = divmod(self._index[place], self.data.manifest.samples_per_shard)
        first = self.data.rows(shard).index(row)
        (record,) = self.data.records(shard, first, first + 1)
        return self._sample(place, record.data)

    def __iter__(self) -> Iterator[LabelledImage]:
        shards = range(len(self.data.manifest.shards))
        records = (record for number in shards for record in self.data.records(number))
        with words_of_python():
            self._handles.require_current()
            for place, record in enumerate(records):
                yield self._sample(place, record.data)

    def _sample(self, place: int, content: bytes) -> LabelledImage:
        index, split = self._index[place], self.data.manifest.split
        targets = {
            name: torch.from_numpy(feature.read(split, index, index + 1))[0]
            for name, feature in self.data.features.items()
        }
        image = original_view_of(opened(content), self.data.image)
        return LabelledImage(image, targets, _plain(self._labels[place]), self._names[place], index)

    def __repr__(self) -> str:
        return f"{self.data.manifest.split}: {len(self):,} images at {self.data.directory}"


def _plain(label: Tensor) -> int | tuple[int, ...] | None:
    if label.ndim == 0:
        return int(label) if label >= 0 else None
    return None if (label < 0).all() else tuple((label == 1).nonzero().flatten().tolist())


def feature_options(
    features: Mapping[str, RepresentationOptions | Mapping[str, Any]],
) -> dict[str, RepresentationOptions]:
    """Return features as checked options by name. Raises ConfigError that lists all problems."""
    for name, given in features.items():
        if not isinstance(given, Mapping | RepresentationOptions):
            raise ArgumentError(
                f"The feature {name!r} must be a dictionary of options, or what mvmr.teacher("
                f"network, prepare, name=...) returns; found {type(given).__name__}."
            )
    found: dict[str, RepresentationOptions] = checked_by(FeatureSection, dict(features), "features")
    return found


def _source(images: PathText | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(images, Mapping):
        return dict(images)
    root = Path(fspath(images)).absolute()
    if root.is_file():
        raise DataError(f"{str(root)!r} is a file. Name the folder that holds your images.")
    return {"kind": "image_folder", "root": str(root)}


def _require_place(layout: DatasetLayout, source: Mapping[str, Any]) -> None:
    """Raise DataError if shards would be mixed with other files, or with the images themselves."""
    if source.get("kind") == "image_folder" and is_within(layout.root, source.get("root")):
        raise DataError(
            f"{layout.root} lies within the folder of images {source['root']}: choose one outside "
            "of it for the shards, such as data/photos."
        )
    if not layout.is_free:
        raise DataError(
            f"The folder {layout.root} holds files that are not of this library: choose a new or "
            "an empty folder for the shards."
        )


def is_within(place: Location, folder: Any) -> bool:
    """Return whether a place lies in a local folder, or is it."""
    local = isinstance(place, Path) and isinstance(folder, str)
    return local and Path(str(place)).resolve().is_relative_to(Path(folder).resolve())


def require_same_source(options: PackingOptions, layout: DatasetLayout) -> None:
    """Raise DataError if the folder holds shards of another source."""
    wanted = options.source.model_dump(mode="json")
    for manifest in packed_manifests(layout.shards).values():
        packed = manifest.options.get("source", wanted)
        if packed != wanted:
            raise DataError(
                f"{layout.root} holds shards of another source ({packed}): choose another folder "
                "for these images."
            )


def _stored(
    data: Dataset, options: Mapping[str, RepresentationOptions]
) -> dict[str, StoredFeature]:
    return check_features(
        options,
        image=data.require_image(),
        shards=data.shards,
        store=data.store,
        progress=Silent(),
    )


def _seen_by(features: Mapping[str, StoredFeature]) -> ImageOptions | None:
    """Return the images that features depend on, if they agree."""
    return _agreed(map(_depends_on, features.values()))


def _common_image(features: Mapping[str, StoredFeature]) -> ImageOptions | None:
    """Return how the student saw images when the features were computed, if they agree."""
    return _agreed(feature.report.get("image") for feature in features.values())


def _agreed(recorded: Iterable[Mapping[str, Any] | None]) -> ImageOptions | None:
    found = [image for image in recorded if image is not None]
    if not found or any(other != found[0] for other in found):
        return None
    return ImageOptions.model_validate(found[0])


def _depends_on(feature: StoredFeature) -> Mapping[str, Any] | None:
    """Return how the student saw images, if the rows of a feature depend on it."""
    image: Mapping[str, Any] | None = feature.fingerprint.get("representation", {}).get("image")
    return image


def _require_this_image(feature: StoredFeature, image: ImageOptions | None) -> None:
    """Raise StaleFeatureError if a feature depends on how the student sees images, otherwise."""
    made_for = _depends_on(feature)
    if made_for is not None and image is not None and made_for != image.model_dump(mode="json"):
        raise StaleFeatureError(
            f"The feature {feature.name!r} was computed from images prepared as {made_for}: "
            "open the data set with the same image, or extract the feature anew."
        )
