"""Whatever a public call is given instead of what it takes, it answers by a sentence that helps."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from stranger import COLOURS, SIDE, Network, frozen, photos, prepare
from torch import nn

import mvmr
from mvmr.given_arguments import described, fits
from pipeline.base.errors import ArgumentError

IMAGE = mvmr.Image(SIDE)
METHODS = (
    mvmr.Dataset.__getitem__,
    mvmr.Dataset.loader,
    mvmr.DatasetSplit.features,
    mvmr.FeatureStore.__init__,
    mvmr.FeatureStore.__getitem__,
    mvmr.FeatureStore.put,
    mvmr.Objective.__init__,
    mvmr.Objective.forward,
    mvmr.Run.embed,
    mvmr.Run.export,
    mvmr.Run.report,
)


def public_calls() -> Iterator[Callable[..., Any]]:
    for name in mvmr.__all__:
        if inspect.isfunction(found := getattr(mvmr, name)):
            yield found
    yield from METHODS


def parameters() -> Iterator[Any]:
    for call in public_calls():
        hints = get_type_hints(call)
        for name, parameter in inspect.signature(call).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD and hints.get(name, Any) is not Any:
                yield pytest.param(call, name, id=f"{call.__qualname__}-{name}")


class Nothing:
    """What no function takes."""


@pytest.mark.parametrize(("call", "name"), list(parameters()))
@pytest.mark.parametrize("wrong", [Nothing(), Nothing], ids=["object", "class"])
def test_no_argument_may_be_just_anything(
    call: Callable[..., Any], name: str, wrong: object
) -> None:
    if name == "build" and wrong is Nothing:
        return  # a class builds what it is the class of
    owner = [object()] if "self" in inspect.signature(call).parameters else []
    label = call.__qualname__.removesuffix(".__init__").removesuffix(".forward")
    with pytest.raises(ArgumentError, match=rf"^{label}: {name} must be "):
        call(*owner, **{name: wrong})


def test_every_public_function_has_arguments_of_a_type() -> None:
    bare = [
        f"{call.__qualname__} {name}"
        for call in public_calls()
        for name in inspect.signature(call).parameters
        if name not in ("self", "options", "number") and name not in get_type_hints(call)
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [3, np.int64(3)], [3.0, True, "3", None]),
        (float, [3, 2.5, np.float32(1)], [True, "3", None]),
        (str | None, ["a", None], [3, Path("a")]),
        (Mapping[str, Any], [{}], [[("a", 1)], "a"]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3), "ab", None]),
    ],
)
def test_what_fits_an_annotation(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    assert [fits(value, annotation) for value in good] == [True] * len(good)
    assert [fits(value, annotation) for value in bad] == [False] * len(bad)
    assert described(annotation)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> mvmr.Dataset:
    root = tmp_path_factory.mktemp("wrong")
    packed = mvmr.pack(photos(root / "photos", each=20), root / "packed", image=IMAGE)
    return mvmr.extract({"hog": {"cell": 8}}, packed)


X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 3
PIXELS = np.zeros((1, 3, SIDE, SIDE))
HOLED = np.where(np.arange(60)[:, None] == 3, np.nan, X)
PAIR = (torch.ones(8, 4), torch.ones(8, 4))
NAN = torch.full((8, 2), torch.nan)
DATA: Any = "x"
CLASS: Any = nn.MSELoss


def root_of(data: mvmr.Dataset) -> Path:
    return Path(str(data.path)).parent


def knn(train: Any = (X, Y), test: Any = (X, Y), **options: Any) -> Any:
    return mvmr.knn_probe(train, (X, Y), test, **{"ks": (5,), **options})


def distil(data: mvmr.Dataset, **changes: Any) -> Any:
    given: dict[str, Any] = {"images": data, "teacher": mvmr.teacher(frozen(), prepare, name="a")}
    return mvmr.distil(**{**given, "out": data.path.parent / "none", **changes})


def a_file(data: mvmr.Dataset) -> Path:
    return Path(next((root_of(data) / "photos").rglob("*.png")))


WRONG: dict[str, tuple[str, Callable[[mvmr.Dataset], Any]]] = {
    # classes for instances, networks for teachers
    "class as student": (r"class Network.*Network\(\)", lambda d: distil(d, student=Network)),
    "class as teacher": (r"class Network.*Network\(\)", lambda _: teacher(Network)),
    "class as backbone": (r"backbone must .*class Network", lambda d: opened(d, Network)),
    "network as teacher": (r"mvmr\.teacher\(network, pre", lambda d: distil(d, teacher=Network())),
    "class as a term": ("class MSELoss", lambda _: mvmr.register_term("x", CLASS)),
    # images, folders and files
    "a list of images": ("images must be a path.*list of 1", lambda d: distil(d, images=["a.png"])),
    "numbers as images": ("images must", lambda d: distil(d, images=np.zeros((2, 3, 8, 8)))),
    "a number as image": (r"Write mvmr\.Image\(32\)", lambda d: distil(d, image=32)),
    "a side for an image": (r"Write mvmr\.Image\(32\)", lambda _: representation(32)),
    "out is a file": ("out must be a path of a folder", lambda d: distil(d, out=a_file(d))),
    "out is in a file": ("out must be a path of a f", lambda d: mvmr.pack("a", a_file(d) / "b")),
    "another image than opened": ("leave `image` out", lambda d: distil(d, image=mvmr.Image(8))),
    # arrays
    "array in a representation": (r"found ndarray.*from_numpy", lambda _: represented(PIXELS)),
    "list in a representation": ("torch tensor; found list", lambda _: represented([[1.0]])),
    "lists": (r"numpy\.asarray", lambda _: dependence([[1.0]], [[2.0]])),
    "NaN": ("y must be finite; row 3 holds NaN", lambda _: dependence(X, HOLED)),
    "infinity": ("x must be finite; row 0", lambda _: dependence(HOLED * np.inf, X)),
    "masked": ("masked", lambda _: knn(train=(np.ma.masked_less(X, 0), Y))),
    "sparse": ("dense tensor", lambda _: knn(train=(torch.eye(60).to_sparse(), Y))),
    # probes
    "a triple": (r"train must be a pair \(.*; found a tuple of 3", lambda _: knn(train=(X, Y, Y))),
    "features alone": ("test must be a pair", lambda _: knn(test=X)),
    "names of classes": ("return_inverse", lambda _: knn(train=(X, Y.astype(str)))),
    "objects": ("return_inverse", lambda _: knn(train=(X, Y.astype(object)))),
    "beyond int64": (r"below 2\^63", lambda _: knn(train=(X, Y.astype(np.uint64) + 2**63))),
    "no neighbours": (r"ks\.0.*greater than or equal to 1; found 0", lambda _: knn(ks=(0,))),
    "one k": (r"knn_probe\.ks: Input should be a list; found 5", lambda _: knn(ks=5)),
    "true and false": (r"torch\.bool.*astype\(int\)", lambda _: knn(train=(X, Y > 0))),
    "floats as labels": (r"float64.*astype\(int\)", lambda _: knn(train=(X, Y.astype(float)))),
    "one-hot": (r"\(60, 3\)\. Write labels\.argmax\(1\)", lambda _: knn(train=(X, np.eye(3)[Y]))),
    "a column": (r"\(60, 1\)\. Write labels\[:, 0\]", lambda _: knn(train=(X, Y[:, None]))),
    "one number each": (r"Write features\[:, None\]", lambda _: knn(train=(X[:, 0], Y))),
    "no such device": ("auto, cpu, or one.*'foo'", lambda _: knn(device="foo")),
    "no such GPU": ("auto, cpu, or one.*'cuda:77'", lambda _: knn(device="cuda:77")),
    # the objective
    "a list of terms": ("terms must be a dictionary", lambda _: objective(["invariance"])),
    "no batch": ("needs embeddings h or z", lambda _: objective({"variance": {}})()),
    "arrays as embeddings": ("h must be", lambda _: objective({"variance": {"on": "h"}})(h=X)),
    "another width": (r"h of original must have 3 numbers .*\(8, 4\)", lambda _: regression(3)),
    "another layer": (
        r"'variance' acts on z, .* on='h'",
        lambda _: objective({"variance": {}})(h=PAIR),
    ),
    "other images": (
        "8 of h of the original view, 8 of h of the augmented view|3 of the target",
        lambda _: dependence_on_target(torch.ones(3, 2)),
    ),
    "NaN in a target": ("'t' must be finite", lambda _: dependence_on_target(NAN)),
    "a target in a row": (r"'t' must be a matrix \(B, D\)", lambda _: dependence_on_target(NAN[0])),
    "other arguments": (r"called with original, augmented, but", lambda _: one_sided()),
    # data sets and stores
    "a word for a number": ("by number or by slice.*'a'", lambda d: d["train"]["a"]),
    "a list of rows": (r"by number or by slice.*\[1, 2\]", lambda d: rows_of(d, "train")[[1, 2]]),
    "a number for a split": ("Unknown split '0'", lambda d: rows_of(d, 0)),
    "not opened": (r"features=\['dct'\]", lambda d: d["train"].features("dct")),
    "a network for a feature": (r"'a' must be .*mvmr\.teacher", lambda d: features(d, Network())),
    "nothing for a feature": ("'a' must be a dictionary", lambda d: features(d, None)),
    "nowhere": ("Name the folder that holds", lambda d: mvmr.pack("no", root_of(d) / "no")),
    "one image": ("is a file. Name the folder", lambda d: mvmr.pack(a_file(d), root_of(d) / "no")),
    "bad images": (
        'pass on_bad_image="skip" to mvmr',
        lambda d: mvmr.pack(broken(d), root_of(d) / "no"),
    ),
    "no store": ("neither a packed data set nor", lambda d: mvmr.FeatureStore(root_of(d) / "nil")),
    "photographs": (
        "neither a packed data set nor",
        lambda d: mvmr.FeatureStore(root_of(d) / "photos"),
    ),
    "larger integers": (
        r"holds integers up to 16,777,216: subtract",
        lambda d: put(d, scale=2**24 + 1, kind=int, dtype="float32"),
    ),
    "a blurred column": ("how column 0 of train varies: by 6", lambda d: put_narrow(d)),
    "integers beyond 2^53": (r"up to 2\^53", lambda _: dependence(Y[:, None] + 2**60, X)),
    "a run among images": (
        "choose an `out` outside",
        lambda d: mvmr.pretrain(root_of(d) / "photos", out=root_of(d) / "photos/run"),
    ),
    "large integers": ("integer 2049 of", lambda d: put(d, scale=2049, kind=int)),
    "mean of bytes": ("not of bytes; found", lambda _: mvmr.Image(8, mean=(123.0,) * 3)),
    "a second teacher": ("the feature other", lambda d: distil(d, features={"teacher": {}})),
    "no terms": ("at least one term", lambda d: distil(d, objective={})),
    "one name": (r"Write \['hog'\]", lambda d: mvmr.open_dataset(str(d.path), features="hog")),
    "no samples": ("of at least 1; found 0", lambda d: mvmr.pack("a", str(d.path), samples=0)),
    "no batches": ("of at least 1; found 0", lambda d: d.loader(batch_size=0)),
    "fewer than none": ("of at least 0; found -1", lambda d: d.loader(workers=-1)),
    "a large batch": ("than the .. train images .*lower the batch size, f", lambda d: d.loader()),
    "a path for data": (
        r"mvmr\.open_dataset\('x'\)",
        lambda d: d.store.put("a", {}, DATA, made_from="a"),
    ),
    "a path to extract for": (r"mvmr\.open_dataset\('x'\)", lambda _: mvmr.extract({}, DATA)),
    "unsaid": ("made_from must be a text that is not empty", lambda d: put(d, made_from=" ")),
    "no dtype": ("Did you mean 'float16'", lambda d: put(d, dtype="float61")),
    # files
    "a text file": ("not a readable checkpoint", lambda d: mvmr.load_encoder(text_file(d))),
    "a folder": (r"is a folder.*checkpoints/best\.pt", lambda d: mvmr.load_encoder(str(d.path))),
    "no file": ("no checkpoint", lambda _: mvmr.load_encoder("nowhere.pt")),
    "no experiment": (r"or one of mvmr\.configs\(\)", lambda d: experiment(d, "nowhere.yaml")),
    # code of one's own
    "two sizes": ("both sides, or crop", lambda d: extract(d, prepare=keeping_aspect)),
    "no tensor": (r"\(C, H, W\); found Image", lambda d: extract(d, prepare=lambda image: image)),
    "failing": ("fails.*KeyError", lambda d: extract(d, prepare=lambda _: COLOURS["none"])),
    "a path to prepare": ("is a PIL image.*; found str", lambda _: prepared("a.png")),
    "two images": (r"called with images, but takes \(x, y\)", lambda d: own_feature(d)),
    "a depth": (r"called with channels=, but takes .*'depth'", lambda d: own_student(d)),
    "rows of a batch": ("no statistics of the batch", lambda d: extract(d, network=centred)),
}


def dependence(x: Any, y: Any) -> Any:
    return mvmr.distance_correlation(x, y)


def teacher(network: Any) -> Any:
    return mvmr.teacher(network, name="x")


def opened(data: mvmr.Dataset, backbone: Any) -> mvmr.Run:
    return mvmr.open_run(str(data.path), backbone=backbone)


def representation(image: Any) -> Any:
    return mvmr.representation("hog", image)


def represented(images: Any) -> Any:
    return representation(IMAGE)(images)


def objective(terms: Any) -> Any:
    return mvmr.Objective(terms)


def experiment(data: mvmr.Dataset, name: str) -> mvmr.Run:
    return mvmr.run_experiment(name, out=root_of(data) / "none")


def regression(h_width: int) -> Any:
    terms = {"t": {"kind": "regression", "on": "h"}}
    objective = mvmr.Objective(terms, targets={"t": 4}, h_width=h_width)
    return objective(h=PAIR, targets={"t": PAIR[0]})


def dependence_on_target(target: torch.Tensor) -> Any:
    return mvmr.Objective({"t": {"kind": "dependence", "on": "h"}})(h=PAIR, targets={"t": target})


def one_sided() -> mvmr.Objective:
    mvmr.register_term("one_sided", lambda original: original.mean())
    return mvmr.Objective({"one_sided": {}})


def rows_of(data: mvmr.Dataset, split: Any) -> Any:
    return data.store["hog"][split]


def features(data: mvmr.Dataset, given: Any) -> mvmr.Dataset:
    return mvmr.extract({"a": given}, data)


def prepared(image: Any) -> Any:
    return representation(IMAGE).preparation(image)


def own_feature(data: mvmr.Dataset) -> mvmr.Dataset:
    two: Any = lambda x, y: x + y  # noqa: E731
    mvmr.register_representation("two", two)
    return mvmr.extract({"two": {}}, data)


def own_student(data: mvmr.Dataset) -> Any:
    mvmr.register_student("deep", lambda channels, depth: nn.Conv2d(channels, depth, 3))
    return distil(data, student="own:deep", train={"batch_size": 8})


def centred(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1) - images.flatten(1).mean(0)


def text_file(data: mvmr.Dataset) -> Path:
    path = root_of(data) / "weights.pt"
    path.write_text("not weights\n")
    return path


def broken(data: mvmr.Dataset) -> Path:
    folder = root_of(data) / "broken"
    photos(folder, each=10)
    (folder / "red" / "a.jpg").write_bytes(b"no image")
    return folder


def put_narrow(data: mvmr.Dataset) -> Any:
    draw = np.random.default_rng(0)
    rows = {s: 1000 + 0.2 * draw.random((len(data[s]), 3)) for s in data.manifests}
    return data.store.put("narrow", rows, data, made_from="a draw")


def put(data: mvmr.Dataset, *, scale: float = 1.0, kind: type = float, **options: Any) -> Any:
    rows: dict[str, Any] = {s: np.full((len(data[s]), 3), scale, kind) for s in data.manifests}
    return data.store.put("put", rows, data, **{"made_from": "ones", **options})


def keeping_aspect(image: Image.Image) -> torch.Tensor:
    image.thumbnail((12, 12))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def extract(data: mvmr.Dataset, *, network: Any = None, prepare: Any = prepare) -> Any:
    return mvmr.extract({"own": mvmr.teacher(network or nn.Flatten(), prepare, name="x")}, data)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_answered_by_a_sentence(case: str, data: mvmr.Dataset) -> None:
    message, call = WRONG[case]
    with pytest.raises(mvmr.MvmrError, match=message) as caught:
        call(data)
    assert str(caught.value).endswith((".", "?"))
    assert "`mvmr " not in str(caught.value)


def test_an_unknown_argument_stays_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'teachr'"):
        mvmr.distil("photos", teachr="x", out="y")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'out'"):
        mvmr.pretrain("photos")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "labels",
    [
        Y.astype(np.uint8),
        Y.astype(np.uint16),
        Y.astype(np.uint64),
        Y.astype(">i4"),
        Y.astype(">u8"),
        torch.from_numpy(Y).to(torch.uint16),
        np.repeat(Y, 2)[::2],
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_of_every_integer_type_are_the_same_labels(labels: Any) -> None:
    features = np.eye(3)[Y] + 0.1 * np.resize(X, (60, 3))
    expected = mvmr.knn_probe(*((features, Y),) * 3, ks=(5,))
    for same in (features.astype(">f4"), features.astype(np.longdouble), features):
        found = mvmr.knn_probe(*((same, labels),) * 3, ks=(5,))
        assert found.accuracy == expected.accuracy == 1
        assert (found.predicted == Y).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"weights",
        b"a b c\n1 2 3\n",
        b"\x80\x02.",
        b"PK\x03\x04 cut short",
        b'{"a": 1}',
        b"\x89PNG\r\n\x1a\n",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
    ],
)
@pytest.mark.parametrize("ending", ["pt", "safetensors", "onnx", "txt"])
def test_a_file_that_holds_no_weights_is_refused(
    content: bytes, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    with pytest.raises(mvmr.MvmrError, match=r"weights\."):
        mvmr.load_encoder(path)
