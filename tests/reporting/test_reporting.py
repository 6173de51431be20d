"""The mathematics of the report's panels, against independent computations."""

import math
from dataclasses import replace
from pathlib import Path

import dcor
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.base.text import spoken
from pipeline.images.original_view import ImageOptions
from pipeline.metrics.intervals import wilson
from pipeline.objective.terms import ObjectiveOptions, active
from pipeline.reporting.cached import Cache, cache
from pipeline.reporting.comparison import Differences, compared, differences
from pipeline.reporting.confusion import Confusion, Prediction, confusion, mistakes
from pipeline.reporting.curves import CurvesPanel, curves
from pipeline.reporting.dependence_map import Dependence, dependence
from pipeline.reporting.formats import duration, number, size, times, unbroken
from pipeline.reporting.health import collapse_of, has_collapsed, variance_shares
from pipeline.reporting.int8_panel import Int8Comparison, exported_int8
from pipeline.reporting.maps import Maps, maps
from pipeline.reporting.neighbours_panel import Searches, searches
from pipeline.reporting.page import Panel, render
from pipeline.reporting.pictures import sprite
from pipeline.reporting.provenance import provenance
from pipeline.reporting.published import PUBLISHED
from pipeline.reporting.representations_panel import representations
from pipeline.reporting.run_facts import Cached, Collapse, RunFacts, Split, Student, run_from_json
from pipeline.reporting.sample import Absent, ImageSample
from pipeline.reporting.scores import protocols
from pipeline.reporting.summary import summary
from pipeline.reporting.term_sentences import terms_of
from stages.experiment.schema import load

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGE = ImageOptions(size=8, channels=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
N = 60


def sample(*, labelled: bool = True) -> ImageSample:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 3
    student = torch.randn(N, 12, generator=source) + 4 * torch.eye(12)[labels]
    return ImageSample(
        split="test",
        image=IMAGE,
        images=torch.randint(0, 256, (N, 3, 8, 8), generator=source, dtype=torch.uint8),
        names=[f"{number}.png" for number in range(N)],
        labels=labels if labelled else None,
        classes=("ant", "bee", "cow") if labelled else (),
        spaces={
            "student": student,
            "untrained": student[:, :5] + torch.randn(N, 5, generator=source),
            "hog": torch.randn(N, 30, generator=source),
        },
    )


def a_run(**changes: object) -> RunFacts:
    scores = {"main": "top1", "split": "test", "images": {"test": N}, "seed": 0}
    student = {"top1": 70.0, "top1_low": 60.0, "top1_high": 80.0}
    control = {"top1": 50.0, "top1_low": 45.0, "top1_high": 55.0}
    config = load(CONFIGS / "digits.yaml").model_dump(mode="json")
    config["evaluate"] = {"linear": config["evaluate"]["linear"]}
    run = RunFacts(
        name="digits",
        digest="0" * 64,
        config=config,
        classes=("ant", "bee", "cow"),
        multi_label=False,
        splits={
            "train": Split(900, 900, 0, 10_000, "a"),
            "validation": Split(100, 100, 0, 1_000, "b"),
            "test": Split(N, N, 0, 1_000, "c"),
        },
        cached=(
            Cached(
                name="hog",
                kind="hog",
                teacher=False,
                width=50,
                original_width=200,
                stored_type="float16",
                images=1060,
                bytes=106_000,
                bytes_per_image=100,
                dcor_error=1e-4,
                dcor_error_independent=1e-3,
                digest="d",
                images_per_second=500.0,
            ),
        ),
        student=Student("resnet8x2", 300_000, 12, "best.pt", "e"),
        training={"epoch": 2, "rule": "validation/probe_top1", "score": 60.0},
        curves=(
            {"epoch": 1.0, "train/objective": 3.0, "validation/probe_top1": None},
            {"epoch": 2.0, "train/objective": 2.0, "validation/probe_top1": 60.0},
        ),
        metrics={
            "linear": {
                **scores,
                **student,
                "controls": {"untrained": control},
                "protocol": {"kind": "linear"},
            }
        },
        health={"student": Collapse(8.0, 12, 0.0)},
        work=(),
        versions={"mvmr": "0"},
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_the_page_says_what_storing_images_reduced_saves() -> None:
    run = a_run()
    assert "reduced" not in provenance(run, "digits.yaml", ()).splits[0].bytes
    smaller = replace(run.splits["train"], reduced=700, saved=30_000)
    larger = replace(run.splits["test"], reduced=1, saved=-500)
    found = provenance(a_run(splits={"train": smaller, "test": larger}), "digits.yaml", ())
    assert (
        f"700 images stored reduced, {size(30_000)} less than their files" in found.splits[0].bytes
    )
    assert f"1 image stored reduced, {size(500)} more than their files" in found.splits[1].bytes


@pytest.mark.parametrize(
    ("latency", "said"),
    [(0.5, "is 2 times as fast"), (1.02, "is about as fast"), (4.0, "is 4 times slower")],
)
def test_the_page_says_whether_int8_is_faster(latency: float, said: str) -> None:
    score = {"main": "top1", "top1": 90.0, "top1_low": 80.0, "top1_high": 95.0}
    worse = {"main": "top1", "top1": 70.0}
    comparison = {
        "float": {"bytes": 4000, "latency_ms": 1.0, "scores": {"linear": score}},
        "int8": {"bytes": 1000, "latency_ms": latency, "scores": {"linear": worse}},
        "latency": {"cpu": "Z80", "threads": 1, "images": 1, "runs": 9},
        "agreement": {
            "k": 10,
            "percent": 88.8,
            "low": 87.0,
            "high": 90.1,
            "split": "test",
            "images": 60,
        },
    }
    assert isinstance(exported_int8(a_run()), Absent)
    found = exported_int8(a_run(int8=comparison))
    assert isinstance(found, Int8Comparison)
    assert f"takes 4 times less space than the float file, and {said} on this CPU (Z80)" in (
        found.verdict
    )
    rows = {name: values for name, *values in found.rows}
    assert rows["linear: top-1 accuracy (%)"] == ["90.0 (80.0 to 95.0)", "70.0"]
    assert rows["10 nearest neighbours in common (%), 60 test images"] == [
        "",
        "88.8 (87.0 to 90.1)",
    ]


def test_the_heat_map_is_the_unbiased_statistic_of_dcor() -> None:
    found = dependence(sample(), ["hog"])
    assert isinstance(found, Dependence)
    assert found.names == ("student", "untrained", "hog")
    spaces = [space.double().numpy() for space in sample().spaces.values()]
    for a, row in zip(spaces, found.values, strict=True):
        for b, value in zip(spaces, row, strict=True):
            assert value == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-5)
    student, _, hog = spaces
    (gain,) = found.gains
    assert gain.student == pytest.approx(dcor.u_distance_correlation_sqr(student, hog), abs=1e-5)
    assert found.bias.plain == pytest.approx(dcor.distance_correlation(student, hog), abs=1e-5)
    # Unrelated to begin with: mixing images up changes neither statistic, and only one is near 0.
    assert found.bias.plain_mixed == pytest.approx(found.bias.plain, abs=0.05)
    assert abs(found.bias.corrected_mixed) < 0.05 < 0.3 < found.bias.plain_mixed


def test_a_student_from_known_weights_is_compared_with_them() -> None:
    given = sample()
    spaces = {**given.spaces, "start": given.spaces["student"] + 1.0}
    begun = replace(given, spaces=spaces)
    found, before = dependence(begun, ["hog"]), dependence(given, ["hog"])
    assert isinstance(found, Dependence)
    assert isinstance(before, Dependence)
    assert found.gains[0].before == pytest.approx(found.gains[0].student)  # a shift alone
    assert before.gains[0].before != pytest.approx(before.gains[0].student)
    shown = maps(begun, {})
    assert isinstance(shown, Maps)
    assert [m.name for m in shown.maps][:2] == ["student-t-sne", "start-t-sne"]


def test_rank_and_dead_dimensions_by_numpy() -> None:
    space = sample().spaces["student"].clone()
    space[:, 3] = 7.0
    space[:, 4] = 1e-4 * space[:, 5]
    found = collapse_of(space)
    singular = np.linalg.svd(space.double().numpy(), compute_uv=False)
    shares = singular / singular.sum()
    assert found.rank == pytest.approx(math.exp(-(shares * np.log(shares + 1e-300)).sum()))
    assert found.limit == 12
    assert found.dead_share == pytest.approx(2 / 12)
    assert collapse_of(1000 * space).dead_share == found.dead_share
    variances = np.sort(space.double().numpy().var(axis=0))[::-1]
    assert variance_shares(space).numpy() == pytest.approx(variances / variances.sum())


def test_few_images_have_no_heat_map() -> None:
    whole = sample()
    spaces = {name: space[:20] for name, space in whole.spaces.items()}
    found = dependence(replace(whole, images=whole.images[:20], spaces=spaces), ["hog"])
    assert isinstance(found, Absent)
    assert "there are 20" in found.reason


def test_a_constant_embedding_is_called_collapsed() -> None:
    found = collapse_of(torch.ones(40, 50))
    assert found.dead_share == 1
    assert found.rank == pytest.approx(1)
    assert has_collapsed(found)
    assert not has_collapsed(collapse_of(sample().spaces["student"]))
    notes = summary(a_run(health={"student": found})).notes
    assert any(n.kind == "caution" and "collapsed" in n.text for n in notes)


def test_neighbours_are_those_of_all_cosines() -> None:
    found = searches(sample(), ["student"])
    assert isinstance(found, Searches)
    space = sample().spaces["student"].numpy()
    unit = space / np.linalg.norm(space, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    best = np.argsort(-cosines, axis=1)
    for row, query in enumerate(found.queries):  # the first image of each class
        names = [hit.name for hit in query.found["student"]]
        assert names == [f"{n}.png" for n in best[row, :6]]
    hits = (best[:, 0] % 3 == np.arange(N) % 3).mean()
    assert found.hits["student"] == pytest.approx(100 * hits)


def test_accuracy_of_each_class_and_its_interval() -> None:
    guesses = [Prediction(f"{i}.png", "ant", "ant", 0.9) for i in range(8)]
    guesses += [Prediction("8.png", "ant", "bee", 0.7), Prediction("9.png", "ant", "cow", 0.99)]
    guesses += [Prediction("10.png", "bee", "bee", 0.5)]
    found = confusion("linear", guesses, ("ant", "bee", "cow"))
    assert isinstance(found, Confusion)
    assert found.counts == ((8, 1, 1), (0, 1, 0), (0, 0, 0))
    ant, bee = found.by_class
    assert (ant.accuracy, ant.images, bee.accuracy) == (80, 10, 100)
    # Wilson's interval of 8 of 10, from its defining equation (p - s)^2 = z^2 p (1 - p) / n.
    for end in wilson(8, 10):
        assert (end - 0.8) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 10)
    worst = mistakes("linear", guesses, sample())
    assert not isinstance(worst, Absent)
    assert [m.prediction.image for m in worst.mistakes] == ["9.png", "8.png"]


def test_many_classes_have_no_matrix_but_their_errors() -> None:
    guesses = [Prediction(str(i), f"c{i % 30}", f"c{(i * i) % 30}", 0.5) for i in range(300)]
    found = confusion("knn", guesses, [f"c{i}" for i in range(30)])
    assert isinstance(found, Confusion)
    assert found.counts == ()
    assert found.pairs[0][2] == 10
    assert len(found.by_class) == 30


def test_each_term_is_explained_by_what_it_is_and_its_sign() -> None:
    found = set()
    for path in CONFIGS.glob("*.yaml"):
        experiment = load(path)
        if experiment.train is None or experiment.objective is None:
            continue
        config = experiment.model_dump(mode="json")
        terms = terms_of(replace(a_run(), config=config), {"clip": "ViT"})
        assert [term.name for term in terms] == list(active(experiment.objective))
        found |= {(experiment.objective[term.name].kind, term.says) for term in terms}
        assert not any("A term of kind" in term.says for term in terms)
    kinds = {kind for kind, _ in found}
    assert kinds >= {"invariance", "variance", "covariance", "dependence", "regression"}
    config = load(CONFIGS / "digits.yaml").model_dump(mode="json")
    objective = {
        "hog": {**config["objective"]["hog"], "weight": -1},
        "clip": {**config["objective"]["hog"], "representation": "clip"},
        "augmented": {**config["objective"]["augmented"], "weight": 0},
    }
    run = replace(a_run(), config={**config, "objective": objective})
    hog, clip = terms_of(run, {"clip": "ViT-B-16"})
    assert "stored histograms of oriented gradients" in hog.says
    assert "negative" in hog.says
    assert "teacher ViT-B-16" in clip.says
    assert "negative" not in clip.says


def test_the_objective_is_told_by_kinds_and_what_they_act_on() -> None:
    given = {
        "regressed": {"kind": "regression", "representation": "hog"},
        "second": {"kind": "variance", "margin": 2},
        "scattering": {"kind": "dependence", "weight": 0},
        "invariance": {},
    }
    run = a_run()
    terms = TypeAdapter(ObjectiveOptions).validate_python(given)
    told = {name: term.model_dump(mode="json") for name, term in terms.items()}
    facts = dict(summary(replace(run, config={**run.config, "objective": told})).facts)
    assert facts["Training"].endswith("objective: regression on hog, variance, invariance")


def test_each_term_has_a_chart_of_its_own_and_its_part_of_the_objective() -> None:
    row = {"train/term/hog": 0.5, "validation/term/hog": 0.6}
    run = a_run(curves=tuple({**old, **row} for old in a_run().curves))
    run.config["objective"]["hog"]["weight"] = 3
    found = curves(run)
    assert isinstance(found, CurvesPanel)
    (hog,) = found.terms
    assert hog.share == "1.5 of 2"  # of the best epoch, the second
    assert [key.label for key in hog.drawn.keys] == ["training", "validation"]
    assert len({key.dash for key in hog.drawn.keys}) == 2


def test_new_terms_geometries_and_weights_are_told() -> None:
    given = {
        "hog": {
            "kind": "regression", "loss": "cosine_smooth_l1", "layers": 2, "whiten": 1,
            "relative": True, "weight": {"from": 5, "to": 1},
        },
        "near": {"kind": "affinity", "representation": "hog", "bank": 2048},
        "white": {"kind": "dependence", "representation": "hog", "whiten": 0.5},
        "turned": {
            "kind": "regression", "representation": "hog", "loss": "squared", "whiten": "phi_s",
        },
        "labels": {"view": "augmented"},
        "barlow": {},
        "sigreg": {},
    }  # fmt: skip
    run = a_run()
    told = {
        name: term.model_dump(mode="json")
        for name, term in TypeAdapter(ObjectiveOptions).validate_python(given).items()
    }
    terms = {
        t.name: t for t in terms_of(replace(run, config={**run.config, "objective": told}), {})
    }
    assert not any("A term of kind" in term.says for term in terms.values())
    assert all(term.trivial for term in terms.values())
    for part in ("smooth L1", "two layers", "each component standardised", "from 5 to 1"):
        assert part in terms["hog"].says
    assert terms["hog"].shown_weight == "5 to 1"
    assert "2,048 stored targets" in terms["near"].says
    assert "to the power of 0.5" in terms["white"].says
    assert "rotated to vary alike" in terms["turned"].says
    assert "linear classifier of h of a random view" in terms["labels"].says
    assert terms["barlow"].shown_weight == "1"


def test_the_views_of_terms_are_told_where_some_are_local() -> None:
    given = {
        "invariance": {},
        "variance": {"view": "local"},
        "covariance": {"view": "both"},
        "hog": {"kind": "regression", "view": "all"},
    }
    terms = TypeAdapter(ObjectiveOptions).validate_python(given)
    told = {name: term.model_dump(mode="json") for name, term in terms.items()}
    run = a_run()
    config = {**run.config, "objective": told}
    two = {t.name: t.says for t in terms_of(replace(run, config=config), {})}
    assert "of the two views" in two["invariance"]
    assert "summed over both views" in two["variance"]
    assert "of h of either view and" in two["hog"]
    local = {"count": 4, "size": 6, "scale": [0.05, 0.3]}
    config["train"] = {**run.config["train"], "views": {"global": 2, "local": local}}
    many = {t.name: t.says for t in terms_of(replace(run, config=config), {})}
    assert "of two views, at least one of them global" in many["invariance"]
    assert "twice the mean over local views" in many["variance"]
    assert "summed over both views" in many["covariance"]
    assert "of h of any view, also local ones, and" in many["hog"]
    found = curves(replace(run, config=config))
    assert isinstance(found, CurvesPanel)
    assert "4 local of 6 x 6 px, of 5 to 30 % of the image's area" in found.local_views


def test_a_term_stands_beside_its_trivial_answer_at_the_best_epoch() -> None:
    row = {
        "train/term/hog": 0.5, "validation/term/hog": 0.3, "validation/trivial/hog": 0.4,
        "validation/explained/hog": 0.25, "train/weight/hog": 2.0,
    }  # fmt: skip
    run = a_run(curves=tuple({**old, **row} for old in a_run().curves))
    run.config["objective"]["hog"]["weight"] = {"from": 3, "to": 1, "schedule": "cosine"}
    found = curves(run)
    assert isinstance(found, CurvesPanel)
    (hog,) = found.terms
    assert hog.share == "1 of 2"  # by the weight of that epoch
    assert hog.explained == (
        "On validation images 0.3, where 0.4 is that between different images: 25.0 % explained."
    )
    assert "25.0 % explained" in render("", "", "", [Panel("curves", "Training", found)])
    older = curves(a_run(curves=tuple({**old, "train/term/hog": 0.5} for old in a_run().curves)))
    assert isinstance(older, CurvesPanel)
    assert older.terms[0].explained == ""


def test_a_choice_within_its_own_interval_is_a_caution() -> None:
    about = {"validation/labelled": 80.0, "validation/largest_class": 55.0}
    run = a_run(
        curves=tuple({**row, **about, "validation/probe_top1": 60.0} for row in a_run().curves)
    )
    said = [note.text for note in summary(run).notes if note.kind == "caution"]
    assert any(text.startswith("Epoch 1 scores within") for text in said)
    assert any("naming the largest class" in text for text in said)


@pytest.mark.parametrize(
    ("parallel", "joined"),
    [
        ({"devices": 1, "nodes": 1, "gather": True}, None),
        ({"devices": 4, "nodes": 2, "gather": True}, 8),
        ({"devices": 4, "nodes": 2, "gather": False}, None),
    ],
)
def test_it_says_of_which_batch_the_curves_are(
    parallel: dict[str, object], joined: int | None
) -> None:
    run = a_run()
    train = {**run.config["train"], "parallel": parallel}
    found = curves(replace(run, config={**run.config, "train": train}))
    assert isinstance(found, CurvesPanel)
    assert found.joined_processes == joined


def test_what_was_saved() -> None:
    found = cache(a_run())
    assert isinstance(found, Cache)
    assert found.raw_bytes == 4 * 200 * 1060
    assert found.savings[0].smaller == 8
    assert found.saved_seconds == pytest.approx(19 * 1000 / 500)  # 20 epochs, one of them spent
    assert isinstance(cache(a_run(cached=())), Absent)


def test_the_error_of_storing_is_told_in_the_geometries_in_use() -> None:
    run = a_run()
    (hog,) = run.cached
    measured = replace(hog, whitened_errors={"0.5": 0.01, "1": 0.02})
    term = {"kind": "regression", "representation": "hog", "whiten": 1.0}
    controls = {"hog": {"top1": 50.0, "whiten": 0.5}}
    used = replace(
        run,
        cached=(measured,),
        config={**run.config, "objective": {"near": {"weight": 1.0, **term}}},
        metrics={"knn": {**run.metrics["linear"], "controls": controls}},
    )
    found = cache(used)
    assert isinstance(found, Cache)
    assert [(e.power, e.error, e.used_by) for e in found.whitened] == [
        (0.5, 0.01, ("knn",)),
        (1.0, 0.02, ("near",)),
    ]
    for plain in (run, replace(run, cached=(measured,)), replace(used, cached=(hog,))):
        unused = cache(plain)
        assert isinstance(unused, Cache)
        assert unused.whitened == ()
    page = render("", "", "", [Panel("cached", "", found)])
    assert "near uses hog with each component divided by its deviation." in page
    assert "knn uses hog with each component divided by its deviation to the power of 0.5" in page


def test_what_there_is_nothing_true_to_say_of_is_left_out() -> None:
    assert isinstance(curves(a_run(curves=())), Absent)
    assert isinstance(confusion("", [], ()), Absent)
    assert isinstance(mistakes("", [], sample()), Absent)
    unlabelled = sample(labelled=False)
    assert isinstance(searches(unlabelled, ["student"]), Searches)
    drawn = maps(unlabelled, {})
    assert isinstance(drawn, Maps)
    assert not drawn.labelled


def test_marks_tiles_and_items_are_the_same_images_in_the_same_order() -> None:
    drawn = maps(sample(), {"4.png": "cow"})
    assert isinstance(drawn, Maps)
    assert len(drawn.items) == N
    assert [len(part.points) for part in drawn.maps[0].groups] == [20, 20, 20]
    assert [item["class"] for item in drawn.items] == ["ant"] * 20 + ["bee"] * 20 + ["cow"] * 20
    (predicted,) = [item for item in drawn.items if "predicted" in item]
    assert predicted == {"name": "4.png", "class": "bee", "predicted": "cow"}
    tiles = sprite(sample().images)
    assert tiles.columns * tiles.rows >= N


def test_every_representation_is_drawn_even_where_none_is_stored() -> None:
    found = representations(sample(), {})
    assert [drawing.name for drawing in found.drawings] == ["scattering", "hog", "local_std"]
    assert not any(drawing.used for drawing in found.drawings)
    assert len(found.images) == 3  # one a class


def test_a_published_figure_stands_beside_its_own_run_only() -> None:
    for row in PUBLISHED:
        experiment = load(CONFIGS / f"{row.experiment}.yaml")
        assert row.protocol in experiment.evaluate
        assert experiment.student.architecture == row.architecture
        if row.epochs is not None:
            assert experiment.train is not None
            assert experiment.train.epochs == row.epochs
    assert protocols(a_run())[0].published is None


def test_a_run_survives_its_record_and_is_compared() -> None:
    run = a_run()
    again = run_from_json(run.to_json())
    assert again.to_json() == run.to_json()
    with pytest.raises(ValueError, match="not a run's record"):
        run_from_json({"format": 1, "name": "x"})
    other = a_run(name="other", config={**run.config, "seed": 3})
    found = differences([run, other])
    assert isinstance(found, Differences)
    assert [(row.name, row.cells) for row in found.rows] == [("seed", ("0", "3"))]
    assert isinstance(differences([run, run]), Absent)
    assert all(panel.shown for panel in compared([run, other]))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (number(0.000164), "1.6 × 10⁻⁴"),  # noqa: RUF001
        (times(5.0625), "5.1"),
        (times(60.75), "61"),
        (number(45_000), "45,000"),
        (number(0), "0"),
        (size(1_380_000), "1.38 MB"),
        (duration(76), "76 s"),
        (duration(725), "12 min 5 s"),
        (duration(12_000), "3 h 20 min"),
        (unbroken("33.3 %"), "33.3 %"),
    ],
)
def test_numbers_are_written_for_people(written: str, meant: str) -> None:
    assert written.replace("\N{NO-BREAK SPACE}", " ") == meant
    assert " " not in written  # nothing is cut from its unit


@pytest.mark.parametrize(
    ("key", "main", "meant"),
    [
        ("dcor_squared_unbiased_with_my_clip", "", "bias-corrected squared dCor with my_clip"),
        ("top1_low", "top1", "top1 low"),
        ("recall_at_1_with_a_low_high", "recall_at_1_with_a_low", "recall at 1 with a_low high"),
    ],
)
def test_figures_are_named_for_people(key: str, main: str, meant: str) -> None:
    assert spoken(key, main=main) == meant
