"""What the report says of scores: every sentence true, for every shape that a run may have."""

import re
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_reporting import N, a_run

from pipeline.base.timing import Attempt
from pipeline.metrics.paired import ScoredImages, class_mean
from pipeline.reporting.comparison import Comparison, compared, scores
from pipeline.reporting.confusion import Confusion, Prediction, confusion
from pipeline.reporting.page import Panel, render
from pipeline.reporting.run_facts import Cached, Collapse, RunFacts, Split, Work
from pipeline.reporting.sample import Absent
from pipeline.reporting.scores import protocols
from pipeline.reporting.summary import summary

NAMES = [f"{number}.png" for number in range(N)]


def right(*images: range) -> np.ndarray:
    hits = np.zeros(N)
    for part in images:
        hits[list(part)] = 1
    return hits


def scored(kind: str, main: str = "top1", split: str = "test", **hits: np.ndarray) -> Any:
    """Return a protocol's metrics and what each image got, with wide intervals about each mean."""
    values = {
        name: {main: 100 * own.mean(), f"{main}_low": 100 * own.mean() - 15, f"{main}_high": 99.0}
        for name, own in hits.items()
    }
    about = {
        "main": main,
        "split": split,
        "images": {split: N},
        "seed": 0,
        "chance": 33.3,
        "protocol": {"kind": kind},
    }
    student = values.pop("student")
    return {**student, **about, "controls": values}, ScoredImages(NAMES, hits)


def run_of(found: dict[str, Any], **changes: Any) -> RunFacts:
    """Return a run with these protocols."""
    run = a_run()
    config = {**run.config, **changes.pop("config", {}), "evaluate": {name: {} for name in found}}
    return replace(
        run,
        config=config,
        metrics={name: metrics for name, (metrics, _) in found.items()},
        per_image={name: images for name, (_, images) in found.items()},
        **changes,
    )


def text_of(run: RunFacts) -> str:
    """Return what the panels on scores say, without tags."""
    content = protocols(run) or Absent("nothing has been evaluated")
    panels = [
        Panel("summary", "Summary", summary(run)),
        Panel("scores", "Scores", content),
    ]
    return plain(render("", run.name, "report of a run", panels))


def plain(page: str) -> str:
    main = page[page.index("<main") : page.index("</main>")]
    return " ".join(re.sub(r"<[^>]+>", " ", main).split())


TEACHER = Cached("clip", "open_clip", True, 8, 8, "float16", N, 1, 1, 0, 0, "d", None)
BEATEN = scored(
    "linear", student=right(range(50)), untrained=right(range(28, 50)), pixels=right(range(49))
)
BEATING = scored(
    "knn", student=right(range(40)), untrained=right(range(10)), pixels=right(range(58))
)


def test_a_gain_within_overlapping_intervals_is_called_one() -> None:
    run = run_of({"linear": BEATEN})
    (protocol,) = protocols(run)
    untrained = protocol.of("untrained")
    assert untrained is not None
    assert protocol.student.overlaps(untrained)
    assert protocol.standing(untrained) == "ahead"
    assert untrained.lead is not None
    assert (untrained.lead.wins, untrained.lead.losses) == (28, 0)
    notes = [note.text for note in summary(run).notes if note.kind == "good"]
    assert any("better than the same encoder" in note and "46.7 points" in note for note in notes)


def test_an_interval_without_width_is_no_certainty() -> None:
    metrics, images = scored("linear", student=right(range(N)), untrained=right(range(30)))
    metrics |= {"top1_low": 100.0, "top1_high": 100.0}
    text = text_of(run_of({"linear": (metrics, images)}))
    assert f"{N} images, all with the same result, so the interval says nothing" in text
    assert "By linear, all test images have the same result." in text
    assert "±" not in text


def test_without_results_by_image_only_intervals_apart_settle() -> None:
    run = replace(run_of({"linear": BEATEN}), per_image={})
    notes = [note for note in summary(run).notes if note.kind == "caution"]
    assert any("is not settled" in n.text and "overlapping intervals" in n.text for n in notes)
    assert "Student ahead by" not in text_of(run)


def test_every_protocol_speaks_on_trust() -> None:
    found = summary(run_of({"linear": BEATEN, "knn": BEATING}))
    cautions = " ".join(note.text for note in found.notes if note.kind == "caution")
    assert "Better than the student by knn: raw pixels by 30.0 points" in cautions
    apart = "Not clearly apart from the student by linear: raw pixels by −1.7 ("  # noqa: RUF001
    assert apart in cautions
    said = " ".join(found.verdict)
    assert "Training helped according to linear and knn" in said
    assert "a control without training does better: raw pixels by knn" in said
    assert "(chance: 33.3 %, by naming the most frequent class every time)" in said
    assert [protocol.name for protocol in found.headlines] == ["linear", "knn"]


def test_the_best_stored_feature_is_named_where_there_are_several() -> None:
    student, hog, other = right(range(50)), right(range(40)), right(range(20))
    several = scored("linear", student=student, scattering=other, hog=hog)
    said = " ".join(summary(run_of({"linear": several})).verdict)
    assert "16.7 points above the stored hog, the best stored feature" in said
    assert "the stored scattering" not in said
    single = scored("linear", student=student, hog=hog)
    said = " ".join(summary(run_of({"linear": single})).verdict)
    assert "16.7 points above the stored hog." in said


def test_a_win_over_all_controls_names_the_nearest_of_them() -> None:
    student, far, near = right(range(58)), right(range(10)), right(range(30))
    won = {
        "linear": scored("linear", student=student, untrained=far, pixels=far, hog=near),
        "knn": scored("knn", student=student, pixels=near, hog=right(range(40))),
    }
    said = " ".join(summary(run_of(won)).verdict)
    assert re.search(
        r"It is better than every control without training: the nearest of them, the stored hog "
        r"by knn, is behind by 30\.0 points \(\d\d\.\d to \d\d\.\d\)\.",
        said,
    )
    level = won | {"online": scored("online", student=student, pixels=right(range(57)))}
    said = " ".join(summary(run_of(level)).verdict)
    assert "better than every control without training by linear and knn: the nearest" in said
    assert "By online, no control without training is clearly better, but some are about" in said
    lost = level | {"other": scored("other", student=far, pixels=student)}
    said = " ".join(summary(run_of(lost)).verdict)
    assert "better than every control without training by linear and knn: the nearest" in said
    assert "But a control without training does better: raw pixels by other." in said
    unpaired = replace(run_of(won), per_image={})
    won["linear"][0]["top1_low"] = won["knn"][0]["top1_low"] = 99.5
    said = " ".join(summary(unpaired).verdict)
    assert "the nearest of them" not in said


def test_few_labels_say_how_many_and_what_the_controls_do() -> None:
    metrics, images = scored("semi_supervised", student=right(range(50)), pixels=right(range(40)))
    metrics["protocol"]["share"] = 0.1
    metrics["images"]["train"] = 126
    text = text_of(run_of({"few_labels": (metrics, images)}))
    assert "those of 126 training images, 10 % of each class?" in text
    assert "Raw pixels and stored features have no network to tune" in text
    assert "few_labels: top-1 accuracy" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["without labels and without a teacher", "two views", "to choose the best epoch"]),
        (
            {
                "cached": (TEACHER,),
                "config": {
                    "objective": {
                        "clip": {"kind": "regression", "representation": "clip", "weight": 1}
                    },
                    "features": {"clip": {"kind": "open_clip", "model": "ViT-B-16"}},
                },
                "training": {"epoch": 20, "rule": "validation/objective", "score": 1.0},
            },
            ["without labels: from the frozen teacher clip (ViT-B-16).", "used only to fit"],
        ),
        (
            {"config": {"train": None, "objective": None, "student": {"weights": "other.pt"}}},
            ["with the weights other.pt: nothing was trained here", "is not known"],
        ),
        (
            {"splits": {"train": Split(9, 0, 0, 1, "a"), "test": Split(N, 0, 0, 1, "c")}},
            ["The images have no labels."],
        ),
        ({"health": {"student": Collapse(1.0, 128, 0.9)}}, ["Do not use this encoder"]),
    ],
)
def test_the_verdict_says_what_was_made_from_what(
    changes: dict[str, Any], expected: list[str]
) -> None:
    said = " ".join(summary(run_of({"linear": BEATEN}, **changes)).verdict)
    for part in expected:
        assert part in said


def test_without_test_images_nothing_is_said_of_them() -> None:
    splits = {"train": Split(900, 0, 0, 1, "a"), "validation": Split(N, 0, 0, 1, "b")}
    main = "agreement_at_10_with_clip"
    shares = np.arange(N) % 11 / 10
    agreement = scored(
        "retrieval", main, "validation", student=shares, untrained=shares * (np.arange(N) % 2)
    )
    agreement[0]["with_clip"] = {"agreement_at_10": 100 * shares.mean(), "dcor": 0.5}
    run = run_of(
        {"retrieval": agreement},
        splits=splits,
        cached=(TEACHER,),
        classes=(),
        config={"features": {"clip": {"kind": "open_clip"}}},
    )
    text = text_of(run)
    assert text.count("test image") == 2  # that there are none: in the verdict, and on trust
    assert text.count("There are no test images") + text.count("there are no test images") == 2
    assert "Of the 10 nearest neighbours of 60 validation images" in text
    assert "are those that clip finds" in text
    (protocol,) = protocols(run)
    assert len(set(protocol.heads)) == len(protocol.heads)
    assert protocol.scores[1].lead is not None
    assert protocol.scores[1].lead.p is None


def test_an_ended_schedule_is_no_reason_to_train_longer() -> None:
    last = {"epoch": 20, "rule": "validation/probe_top1", "score": 1.0}
    train = a_run().config["train"]
    texts = {}
    for kind in ("cosine", "constant"):
        changed = {"train": {**train, "schedule": {**train["schedule"], "kind": kind}}}
        run = run_of({"linear": BEATEN}, training=last, config=changed)
        notes = [note.text for note in summary(run).notes]
        texts[kind] = next(note for note in notes if note.startswith("The last epoch"))
    assert "training longer may do better" in texts["constant"]
    assert "training longer" not in texts["cosine"]


def test_a_run_without_protocols_and_one_with_a_single_score_have_no_empty_table() -> None:
    nothing = text_of(run_of({}))
    assert "How good it is has not been measured." in nothing
    assert "Nothing has been evaluated" in nothing
    alone = text_of(run_of({"online": scored("online", student=right(range(50)))}))
    assert "for the student; this protocol has no controls" in alone
    assert "learned beside the encoder" in alone


def test_objects_of_several_classes_are_scored_by_intervals_alone() -> None:
    metrics, _ = scored("voc07", "map", student=right(range(50)), untrained=right(range(20)))
    metrics["controls"]["untrained"]["map_high"] = 50.0
    metrics["map_low"] = 70.0
    run = replace(
        run_of({"voc07": (metrics, ScoredImages([], {}))}),
        name="voc07_transfer",
        student=replace(a_run().student, architecture="resnet50"),
        multi_label=True,
    )
    text = text_of(run)
    assert "mean average precision of 83.3 %" in text
    assert "published, the released MV-MR code" in text
    assert "87.1" in text
    assert "averaged over all answers at once" in text
    assert "Training helped according to voc07" in text


def test_many_classes_say_how_many_kinds_of_error_are_shown() -> None:
    guesses = [Prediction(str(i), f"c{i % 30}", f"c{(i * i) % 30}", 0.5) for i in range(300)]
    found = confusion("knn", guesses, [f"c{i}" for i in range(30)])
    text = plain(render("", "", "", [Panel("confusion", "Errors by class", found)]))
    kinds = {(i % 30, i * i % 30) for i in range(30) if i % 30 != i * i % 30}
    wrong = 10 * len(kinds)
    assert f"{wrong} images are wrong, with {len(kinds)} kinds of error. The 12 most" in text
    assert "ten classes with the lowest accuracy" in text
    assert "Confusion matrix" not in text


def test_errors_of_one_image_are_counted_and_not_listed() -> None:
    pairs = [tuple(pair) for pair in ("aa", "ab", "ab", "ac", "bb", "ba", "cc")]
    guesses = [Prediction(str(i), actual, said, 0.5) for i, (actual, said) in enumerate(pairs)]
    found = confusion("knn", guesses, ["a", "b", "c"])
    assert isinstance(found, Confusion)
    assert found.pairs == (("a", "b", 2, 4),)
    text = plain(render("", "", "", [Panel("confusion", "Errors by class", found)]))
    assert "4 images are wrong, with 3 kinds of error, 2 of which occurred once. All that" in text


def comparison_of(*runs: RunFacts) -> Comparison:
    found = scores(runs)
    assert isinstance(found, Comparison)
    return found


def test_runs_are_compared_image_by_image_where_the_images_are_the_same() -> None:
    first = run_of({"linear": BEATEN})
    second = replace(
        run_of({"linear": scored("linear", student=right(range(29), range(55, 58)))}), name="other"
    )
    (table,) = comparison_of(first, second).protocols
    (told,) = table.told
    assert re.sub(r"\(\d+\.\d to \d+\.\d\)", "(interval)", told) == (
        "digits is better than other by 30.0 points (interval); of the same 60 images it wins 21 "
        "and loses 3 (McNemar's exact test, p\u00a0=\u00a00.00028)."
    )
    assert comparison_of(first, second).verdict == ("digits is clearly the best by linear.",)
    elsewhere = {**second.splits, "test": Split(N, N, 0, 1_000, "other")}
    (table,) = comparison_of(first, replace(second, splits=elsewhere)).protocols
    assert "is not settled: they were not scored on the same images" in table.told[0]
    assert table.clear is False
    renamed = {"linear": ScoredImages(NAMES[::-1], second.per_image["linear"].values)}
    (table,) = comparison_of(first, replace(second, per_image=renamed)).protocols
    assert "is not settled: they were not scored on the same images" in table.told[0]
    (table,) = comparison_of(first, replace(second, per_image={})).protocols
    assert "results for each image are not there for both" in table.told[0]
    (table,) = comparison_of(first, replace(first, name="twin")).protocols
    assert table.told == ("digits and twin do the same on each of 60 images.",)


def test_a_comparison_shows_what_each_run_began_with() -> None:
    begun = scored(
        "linear", student=right(range(50)), untrained=right(range(6)), start=right(range(30))
    )
    runs = [run_of({"linear": BEATEN}), replace(run_of({"linear": begun}), name="given")]
    (table,) = comparison_of(*runs).protocols
    assert [score.value for score in table.before if score] == pytest.approx([100 * 22 / N, 50.0])
    text = plain(render("", "", "", compared(runs)))
    assert "value 95 % interval before training" in text
    assert "untrained" not in text


def test_runs_before_and_after_a_change_are_compared_on_the_images_that_both_have() -> None:
    first = run_of({"linear": BEATEN})
    _, images = BEATEN
    known = [f"{i:02d}" for i in range(N)]
    before = ScoredImages(images.names, images.values, known)
    # Ten images are gone, the others are renamed and in another order, and five are new.
    order = [*range(N - 1, 9, -1)]
    after = ScoredImages(
        [f"renamed {i}" for i in range(len(order) + 5)],
        {name: np.append(values[order], np.ones(5)) for name, values in images.values.items()},
        [known[i] for i in order] + [f"new {i}" for i in range(5)],
    )
    splits = {**first.splits, "test": Split(N - 5, N - 5, 0, 1_000, "other")}
    grown = replace(first, name="grown", splits=splits, per_image={"linear": after})
    (table,) = comparison_of(replace(first, per_image={"linear": before}), grown).protocols
    assert len(table.told) == 1
    assert table.told[0].endswith("do the same on each of 50 images.")
    strange = known[:19] + [f"other {i}" for i in range(len(after.names) - 19)]
    few = replace(grown, per_image={"linear": replace(after, identities=strange)})
    (table,) = comparison_of(replace(first, per_image={"linear": before}), few).protocols
    assert "is not settled: they were not scored on the same images" in table.told[0]


def test_a_figure_that_runs_do_not_share_is_not_dropped_in_silence() -> None:
    recall = scored("retrieval", "recall_at_1", student=right(range(50)))
    agreement = scored("retrieval", "agreement_at_10_with_hog", student=right(range(40)))
    runs = [run_of({"retrieval": recall}), replace(run_of({"retrieval": agreement}), name="other")]
    found = comparison_of(*runs)
    assert [table.figure for table in found.protocols] == [
        "recall at 1",
        "agreement at 10 with hog",
    ]
    text = plain(render("", "", "", compared(runs)))
    assert "recall at 1 for digits and agreement at 10 with hog for other" in text
    assert "Scored only for other: 66.7 %" in text


def test_other_options_of_a_protocol_are_said() -> None:
    first = run_of({"linear": BEATEN})
    metrics, images = BEATEN
    other = {**metrics, "protocol": {"kind": "linear", "ten_crop": True}}
    second = replace(run_of({"linear": (other, images)}), name="other")
    (table,) = comparison_of(first, second).protocols
    assert any("not scored with the same options" in told for told in table.told)


def test_validation_images_of_the_users_own_are_not_said_to_be_cut() -> None:
    run = a_run()
    split = {**run.config["dataset"]["split"], "validation": 0}
    own = replace(run, config={**run.config, "dataset": {**run.config["dataset"], "split": split}})
    assert "which were cut from the training images" in text_of(run)
    assert "validation images." in text_of(own)
    assert "cut from" not in text_of(own)


def test_a_teacher_called_teacher_is_named_once() -> None:
    metrics, images = scored("linear", student=right(range(50)), teacher=right(range(20, 55)))
    cached = (replace(TEACHER, name="teacher"),)
    features = {"teacher": {"kind": "open_clip", "model": "ViT-B-16"}}
    term = {"kind": "regression", "weight": 1, "representation": "teacher"}
    changed = {"features": features, "objective": {"teacher": term}}
    told = text_of(run_of({"linear": (metrics, images)}, cached=cached, config=changed))
    assert "from the frozen teacher (ViT-B-16)" in told
    assert "above the teacher" in told
    assert "teacher teacher" not in told
    assert "teacher, teacher" not in told


KNOWN: dict[str, Any] = {"untrained": right(range(5)), "pixels": right(range(10))}


def test_training_from_known_weights_is_judged_by_what_these_did_already() -> None:
    better = scored("linear", student=right(range(50)), start=right(range(30)), **KNOWN)
    told = text_of(run_of({"linear": better}))
    assert "Training helped according to linear." in told
    assert (
        "better than every control without training: the nearest of them, the same encoder" in told
    )
    assert "before training by linear, is behind by 33.3 points" in told
    level = scored("linear", student=right(range(50)), start=right(range(49)), **KNOWN)
    told = text_of(run_of({"linear": level}))
    assert "No protocol shows that training helped (linear)." in told
    assert "No control without training is clearly better, but some are about level" in told


def unequal(**subjects: np.ndarray) -> tuple[dict[str, Any], ScoredImages]:
    """Return a protocol's metrics where the first 54 of 60 images are of one of two classes."""
    classes = ["ant"] * 54 + ["bee"] * (N - 54)
    metrics, images = scored("linear", "top1", "test", **subjects)
    for name, values in (("student", metrics), *metrics["controls"].items()):
        mean = 100 * class_mean(subjects[name], classes)
        values |= {"balanced_accuracy": mean, "balanced_accuracy_low": mean - 5}
        values |= {"balanced_accuracy_high": mean + 5}
    metrics["class_sizes"] = {"classes": 2, "largest": 54, "smallest": N - 54}
    return metrics, replace(images, classes=classes)


def test_balanced_accuracy_leads_where_classes_are_of_unequal_size() -> None:
    found = unequal(student=right(range(27), range(54, N)), pixels=right(range(54)))
    told = text_of(run_of({"linear": found}))
    assert "is right on 75.0 % of 60 test images, where each class counts alike" in told
    assert f"because the largest has 54 of them and the smallest {N - 54}" in told
    assert "chance: 50.0 %, by naming any one class every time" in told
    assert "25.0 points above raw pixels" in told
    assert "above raw pixels. Where each image counts alike, it is 55.0 %." in told
    found[0]["class_sizes"] = {"classes": 2, "largest": 18, "smallest": N - 54}
    plain_ = (found[0], ScoredImages(NAMES, {"student": right(range(27), range(54, N))}))
    told = text_of(run_of({"linear": plain_}))
    assert "count alike" not in told
    assert "counts alike" not in told
    assert "is right on 55.0 % of 60 test images" in told


def steps(*losses: float, **more: float) -> tuple[dict[str, float | None], ...]:
    return tuple(
        {"epoch": float(n), "step": 10.0 * n, "validation/objective": loss, **more}
        for n, loss in enumerate(losses, 1)
    )


def proposed(run: RunFacts, *assignments: str) -> list[str]:
    return [one.command for one in summary(run, assignments).proposals]


def test_a_curve_that_still_falls_after_few_steps_asks_for_more() -> None:
    took = Work("train", (Attempt(0.0, 30.0, True, (), 2, ""),))
    run = run_of({"linear": BEATING}, curves=steps(9, 7, 5, 3), work=(took,), health={})
    (proposal, *_) = summary(run, ["train.lr=1e-3"]).proposals
    assert proposal.command == "mvmr train -s train.lr=1e-3 -s train.epochs=200"
    assert "40 steps are few, and 33 % of the objective's fall came" in proposal.why
    assert proposal.seconds == 300.0
    done = run_of({"linear": BEATEN}, curves=steps(9, 3, 3, 3), health={})
    assert not any("train.epochs" in command for command in proposed(done))
    behind = run_of({"linear": BEATING}, curves=steps(9, 3, 3, 3), health={})
    assert "mvmr train -s train.epochs=200" in proposed(behind)
    long = tuple({**row, "step": 1000 * row["step"]} for row in run.curves if row["step"])
    assert not any("train.epochs" in c for c in proposed(replace(run, curves=long)))


def test_learning_rates_beyond_the_usual_are_named() -> None:
    def with_rate(lr: float, *losses: float, name: str = "adam") -> list[str]:
        train = {**a_run().config["train"], "lr": lr, "optimizer": {"name": name}}
        changed = {"train": train}
        return proposed(
            run_of({"linear": BEATING}, curves=steps(*losses), config=changed, health={})
        )

    assert with_rate(0.1, 9, 5, 6, 4)[0] == "mvmr train -s train.lr=0.01"
    assert with_rate(1e-3, 9, 5, 12, 10)[0] == "mvmr train -s train.lr=0.0001"
    assert with_rate(1e-6, 9, 8, 7, 6)[0] == "mvmr train -s train.lr=0.001"
    assert with_rate(1e-3, 9, 8, 7, 6, name="sgd")[0] == "mvmr train -s train.lr=0.1"
    assert "train.lr" not in with_rate(1e-3, 9, 8, 7, 6)[0]
    assert "train.lr" not in with_rate(0.1, 9, 8, 7, 6, name="sgd")[0]


def test_collapse_is_answered_by_what_keeps_images_apart() -> None:
    terms = {"invariance": {"kind": "invariance", "weight": 25.0, "on": "z"}}
    gone = {"student": Collapse(1.0, 64, 0.9)}
    run = run_of({"linear": BEATING}, config={"objective": terms}, health=gone)
    first = proposed(run)[0]
    assert shlex.split(first)[3] == "objective.variance={weight: 12.5, on: z}"
    spread = {**terms, "variance": {"kind": "variance", "weight": 1.0, "on": "z"}}
    run = run_of({"linear": BEATING}, config={"objective": spread}, health=gone)
    assert proposed(run)[0] == "mvmr train -s train.lr=0.0001"


def test_scores_of_chance_everywhere_are_the_labels() -> None:
    nothing = scored("linear", student=right(range(22)), pixels=right(range(19)))
    run = run_of({"linear": nothing}, health={})
    assert proposed(run)[0] == "mvmr shard --force"
    assert "mvmr shard --force" not in proposed(run_of({"linear": BEATING}, health={}))


def test_targets_that_are_one_direction_are_centred() -> None:
    terms = {"hog": {"kind": "regression", "loss": "cosine", "weight": 1, "representation": "hog"}}
    flat = {"validation/trivial/hog": 0.3}

    def with_term(term: dict[str, Any], **more: float) -> list[str]:
        changed = {"objective": {"hog": {**terms["hog"], **term}}}
        curves = steps(0.3, 0.1, 0.1, 0.1, **more)
        return proposed(run_of({"linear": BEATING}, config=changed, curves=curves, health={}))

    assert "mvmr train -s objective.hog.whiten=1" in with_term({}, **flat)
    for same in (with_term({"whiten": 0}, **flat), with_term({"loss": "squared"}, **flat)):
        assert not any("whiten" in command for command in same)
    assert not any("whiten" in c for c in with_term({}, **{"validation/trivial/hog": 0.9}))


def test_a_larger_input_is_proposed_where_files_hold_more() -> None:
    def of_files(size: int, side: int | None, reduced: int, bytes_each: int) -> bool:
        run = a_run()
        files = replace(run.splits["train"], images=100, reduced=reduced, bytes=100 * bytes_each)
        dataset = run.config["dataset"]
        image, shards = {**dataset["image"], "size": size}, {**dataset["shards"], "max_side": side}
        changed = {"dataset": {**dataset, "image": image, "shards": shards}}
        found = run_of({"linear": BEATING}, config=changed, splits={**run.splits, "train": files})
        return any(f"dataset.image.size={2 * size}" in command for command in proposed(found))

    assert of_files(64, None, 0, 40_000)
    assert not of_files(64, None, 0, 10_000)
    assert of_files(64, 256, 90, 10_000)
    assert not of_files(64, 256, 50, 10_000)
    assert not of_files(64, 128, 90, 10_000)
    assert not of_files(128, 512, 90, 100_000)


@pytest.mark.parametrize(("smallest", "helps"), [(4, False), (5, True), (9, True), (10, False)])
def test_more_test_images_are_proposed_where_twice_as_many_are_enough(
    smallest: int, helps: bool
) -> None:
    metrics, images = unequal(student=right(range(27)), pixels=right(range(54)))
    metrics["class_sizes"] = {"classes": 2, "largest": N - smallest, "smallest": smallest}
    dataset = a_run().config["dataset"]
    config = {"dataset": {**dataset, "split": {**dataset["split"], "test": 0.2}}}
    commands = proposed(run_of({"linear": (metrics, images)}, config=config))
    assert any("dataset.split.test=0.4" in command for command in commands) == helps


def test_given_weights_have_no_proposal() -> None:
    assert proposed(run_of({"linear": BEATING}, config={"train": None})) == []


def waiting(share: float) -> RunFacts:
    run = a_run()
    return replace(run, curves=tuple({**row, "wait_share": share} for row in run.curves))


def trained_for(epochs: int) -> RunFacts:
    run = a_run()
    return replace(run, config={**run.config, "train": {**run.config["train"], "epochs": epochs}})


def unreadable(number: int) -> RunFacts:
    run = a_run()
    splits = {**run.splits, "train": replace(run.splits["train"], invalid=number)}
    return replace(run, splits=splits)


def converged(found: bool) -> RunFacts:
    metrics, images = scored("linear", student=right(range(50)), pixels=right(range(49)))
    return run_of({"linear": ({**metrics, "converged": found}, images)})


def of_rank(rank: float) -> RunFacts:
    return replace(a_run(), health={"student": Collapse(rank, 64, 0.0)})


def over(images: int) -> RunFacts:
    metrics, _ = scored("linear", student=right(range(50)), pixels=right(range(49)))
    metrics["images"] = {"test": images}
    return run_of({"linear": (metrics, ScoredImages([], {}))})


def chosen_on(split: str) -> RunFacts:
    found = scored("linear", split="validation", student=right(range(50)))
    return run_of({"linear": found}, training={"epoch": 2, "rule": f"{split}/objective"})


SENTENCES = [
    ("Training waited for data", waiting(0.5), waiting(0.01)),
    ("The curves hold 2 of 20 epochs", trained_for(20), trained_for(2)),
    ("The last epoch was the best", trained_for(2), trained_for(20)),
    ("could not be decoded were left out: 3 train", unreadable(3), unreadable(0)),
    ("did not converge for student", converged(False), converged(True)),
    ("The embedding has collapsed", of_rank(1.0), of_rank(40.0)),
    ("The embedding has not collapsed", of_rank(40.0), of_rank(1.0)),
    ("There are only 60 test images", over(60), over(5000)),
    ("which also chose the checkpoint", chosen_on("validation"), chosen_on("train")),
    ("on which nothing was chosen", chosen_on("train"), chosen_on("validation")),
]


@pytest.mark.parametrize(("sentence", "true", "false"), SENTENCES, ids=[s[0] for s in SENTENCES])
def test_a_sentence_on_trust_is_said_when_its_condition_holds_and_not_else(
    sentence: str, true: RunFacts, false: RunFacts
) -> None:
    assert sentence in text_of(true)
    assert sentence not in text_of(false)
