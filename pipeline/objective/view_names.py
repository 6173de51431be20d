"""Names of the views of an image, and which of them a term's `view` stands for.

Two views are global: the original one and the augmented one. Local ones show small parts of the
image; there may be any number of them.
"""

from typing import Literal, get_args

View = str  # one of GLOBAL_VIEWS, or a name that `local_views` returns
GlobalView = Literal["original", "augmented"]
ViewChoice = Literal["original", "augmented", "both", "local", "all"]
Several = Literal["both", "local", "all"]
Pair = tuple[View, View]

GLOBAL_VIEWS: tuple[GlobalView, GlobalView] = get_args(GlobalView)


def local_views(count: int) -> tuple[View, ...]:
    """Return the names of this number of local views: local-0, local-1 and so on."""
    return tuple(f"local-{number}" for number in range(count))


def all_views(local: int) -> tuple[View, ...]:
    """Return the names of the global views and of `local` local ones, in order."""
    return (*GLOBAL_VIEWS, *local_views(local))


def chosen_views(choice: ViewChoice, local: int) -> tuple[View, ...]:
    """Return the views that a choice stands for among the global and `local` local ones.

    `both` are the global ones. Without local views, as in validation, `local` and `all` are these
    too.
    """
    if choice in GLOBAL_VIEWS:
        return (choice,)
    if choice == "both" or not local:
        return GLOBAL_VIEWS
    return local_views(local) if choice == "local" else all_views(local)


def compared_pairs(choice: Several, local: int) -> tuple[tuple[Pair, ...], ...]:
    """Return the pairs of views that a term compares, in groups that count alike.

    `both` is the pair of global views; `local` is, for each local view, a group of its pairs with
    the global ones; `all` are both kinds. Without local views there is the pair of global ones.
    These are the pairs of multi-crop in SwAV and DINO: local views are not compared with each
    other.
    """
    if choice == "both" or not local:
        return ((GLOBAL_VIEWS,),)
    groups = tuple(tuple((view, name) for view in GLOBAL_VIEWS) for name in local_views(local))
    return groups if choice == "local" else ((GLOBAL_VIEWS,), *groups)
