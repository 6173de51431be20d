"""Online."""

from typing import Literal

from pipeline.config import Options


class OnlineOptions(Options):
    """`evaluate.<name>` of kind online; there is nothing to choose."""

    kind: Literal["online"] = "online"
