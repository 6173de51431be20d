"""`mvmr export --int8`: both files, their comparison in cards and report, and their use."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import QUICK
from PIL import Image

from mvmr import load_encoder
from pipeline.evaluation.image_set import Images
from pipeline.images.original_view import normalise
from pipeline.loading.batch import SplitData
from pipeline.models.exporting import amend_card, card_of
from pipeline.shards.manifest import read_manifests
from stages.terminal.cli import run

FLOAT, INT8 = (Path("runs/digits/exports") / f"digits{end}" for end in (".onnx", ".int8.onnx"))
PAGE = Path("runs/digits/report.html")


def test_both_files_are_compared_as_the_run_was_scored(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the run was not exported by" in PAGE.read_text(encoding="utf-8")
    assert run(["export", "--int8", *QUICK]) == 0
    told = capsys.readouterr().out
    assert f"Then: mvmr embed IMAGES --checkpoint {INT8}" in told
    cards = [json.loads(card_of(path).read_text()) for path in (FLOAT, INT8)]
    found = cards[0]["comparison"]
    assert cards[1]["comparison"] == found
    assert cards[1]["metrics"] == found["int8"]["scores"]
    assert [found[n]["bytes"] for n in ("float", "int8")] == [
        path.stat().st_size for path in (FLOAT, INT8)
    ]
    for name in ("linear", "knn", "retrieval"):
        record = json.loads(Path(f"runs/digits/metrics/{name}.json").read_text())
        main = record["main"]
        score = found["float"]["scores"][name]
        assert (score["main"], score["images"]) == (main, record["images"])
        assert score[main] == pytest.approx(record[main], abs=0.3)  # one image of 360
        assert found["int8"]["scores"][name][main] == pytest.approx(record[main], abs=5)
    assert found["agreement"]["percent"] == pytest.approx(agreement(found["agreement"]["k"]))
    assert found["latency"]["threads"] == 1
    assert found["float"]["latency_ms"] > 0
    # The page has the same, until the run has another checkpoint.
    assert run(["report", *QUICK]) == 0
    page = PAGE.read_text(encoding="utf-8")
    assert "nearest neighbours in common" in page
    assert f"{found['agreement']['percent']:.1f}" in page
    amend_card(INT8, checkpoint={"file": "last.pt", "sha256": "0" * 64})
    assert run(["report", *QUICK]) == 0
    assert "the run was not exported by" in PAGE.read_text(encoding="utf-8")


def agreement(k: int) -> float:
    """Return the mean share of k neighbours in common, in percent, from the two files alone."""
    every = []
    for path in (FLOAT, INT8):
        module, preparation = load_encoder(path)
        manifests = read_manifests(Path("data/digits/shards"))
        data = {
            split: SplitData(Path("data/digits/shards", split), manifest, {}, preparation.image)
            for split, manifest in manifests.items()
        }
        images = torch.cat(list(Images(data).batches("test")))
        h = module(normalise(images, preparation.image)).double().numpy()
        cosines = (h @ h.T) / np.outer(np.linalg.norm(h, axis=1), np.linalg.norm(h, axis=1))
        np.fill_diagonal(cosines, -2)
        every.append(np.argsort(-cosines, axis=1)[:, :k])
    shares = [len({*a} & {*b}) / k for a, b in zip(*every, strict=True)]
    return 100 * float(np.mean(shares))


def test_images_are_embedded_by_the_int8_file_as_its_card_says(inside: Path) -> None:
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 11), dtype=np.uint8)).save(f"photos/{i}.png")
    assert run(["export", "--int8", "-o", "phone.onnx", *QUICK]) == 0
    Path("params.yaml").unlink()  # the card has all that is needed
    assert run(["embed", "photos", "--checkpoint", "phone.int8.onnx", "-o", "a.npz"]) == 0
    module, preparation = load_encoder("phone.int8.onnx")
    expected = module(torch.stack([preparation(f"photos/{i}.png") for i in range(3)]))
    with np.load("a.npz") as found:
        np.testing.assert_allclose(found["embeddings"], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "--int8", "--format", "timm"], 2, "--int8 writes ONNX"),
        (["export", "--int8", *QUICK, "--data", "nowhere"], 1, "run `mvmr shard"),
    ],
)
def test_what_cannot_be_quantised_is_said(
    inside: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run(arguments) == code
    assert message in capsys.readouterr().err
    assert not FLOAT.exists()


def test_an_onnx_file_without_its_card_says_what_is_missing(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "--format", "onnx", "-o", "x.onnx", *QUICK]) == 0
    card_of(Path("x.onnx")).unlink()
    Image.new("L", (9, 9)).save("a.png")
    assert run(["embed", "a.png", "--checkpoint", "x.onnx"]) == 1
    assert "no card x.onnx.json beside it" in capsys.readouterr().err
