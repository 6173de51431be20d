"""`train.views`: how many views of an image a step shows, and how large the small ones are."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from pipeline.base.options import Options

MOST_LOCAL = 32
Share = Annotated[float, Field(gt=0, le=1)]


class ViewForm(NamedTuple):
    """How large a random view is, and how much it shows; None is what image and policy say.

    `size` is its side in pixels, `scale` the smallest and the largest share of the image's area
    that its box has.
    """

    size: int | None = None
    scale: tuple[float, float] | None = None


GLOBAL = ViewForm()


class LocalViewOptions(Options):
    """`train.views.local`: `count` further random views, of small parts of the image.

    Each is a box whose area is a share of the image's, uniform in `scale`, resized to `size` pixels
    along each side. Multi-crop (Caron et al., SwAV, arXiv 2006.09882).
    """

    count: Annotated[int, Field(ge=1, le=MOST_LOCAL)]
    size: Annotated[int, Field(ge=4, le=4096)]
    scale: Annotated[tuple[Share, Share], Field(strict=False)] = (0.05, 0.3)

    @model_validator(mode="after")
    def _increasing(self) -> "LocalViewOptions":
        low, high = self.scale
        if low > high:
            raise ValueError(f"scale is the smallest share and the largest; found {low}, {high}.")
        return self

    @property
    def form(self) -> ViewForm:
        """What each of these views looks like."""
        return ViewForm(self.size, self.scale)


def _two(value: Any) -> Any:
    if value != 2:
        raise ValueError(
            f"the original and the augmented view are the 2 global ones; found {value!r}. Further "
            "views are local ones: set train.views.local."
        )
    return value


class ViewOptions(Options):
    """`train.views`: two global views of each image, and perhaps `local` ones."""

    model_config = ConfigDict(serialize_by_alias=True)

    global_views: Annotated[Literal[2], BeforeValidator(_two), Field(alias="global")] = 2
    local: LocalViewOptions | None = None

    @property
    def local_count(self) -> int:
        """The number of local views, 0 without any."""
        return self.local.count if self.local else 0

    def in_global_ones(self, size: int) -> float:
        """Return how many global views of `size` pixels a side have as many pixels as all views."""
        local = self.local
        return self.global_views + (local.count * (local.size / size) ** 2 if local else 0)

    def told(self, size: int) -> str:
        """Return the views for people, where global ones have `size` pixels a side."""
        every = f"{self.global_views} global of {size} x {size} px"
        if (local := self.local) is None:
            return every
        low, high = (f"{100 * share:g}" for share in local.scale)
        return (
            f"{every}, {local.count} local of {local.size} x {local.size} px, of {low} to {high} % "
            "of the image's area"
        )
