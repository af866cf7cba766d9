"""Calibration against loops over pixels, temperature scaling against what is known to be right."""

import numpy as np
import pytest
import torch

from trimask.metrics import Calibration, InstanceCalibration, PanopticCalibration
from trimask.metrics.calibration import CalibrationPictures, Evidence, fit_temperature
from trimask.metrics.pictures import load, save
from trimask.types import ClassSpec, Instances, Panoptic, SemanticMap, Target

CLASSES = ClassSpec(["sky", "road", "car"], things=[2])


def answer(scores):
    confidence, labels = scores.max(dim=0)
    return SemanticMap(labels, scores, confidence)


def truth(labels):
    """(H, W) labels, -1 for unlabelled."""
    segments = (labels + 1).to(torch.uint8)[None]
    return Target(segments, torch.arange(len(CLASSES)), torch.zeros(len(CLASSES), dtype=torch.bool))


def pictures(num_pictures=4, sharpness=2.0):
    """Logits and labels drawn from the softmax of half of them, some unlabelled: overconfident."""
    generator = torch.Generator().manual_seed(0)
    for index in range(num_pictures):
        logits = torch.randn(3, 10 + index, 14, generator=generator) * 3
        drawn = torch.multinomial(logits.flatten(1).T.softmax(1), 1, generator=generator)[:, 0].view(logits.shape[1:])
        drawn[torch.rand(drawn.shape, generator=generator) < 0.2] = -1
        yield f"picture {index}", (sharpness * logits).softmax(dim=0), drawn


def test_scores_equal_a_loop_over_pixels():
    metric, bins = Calibration(CLASSES, bins=10), [[] for _ in range(10)]
    brier, nll = [], []
    for name, scores, labels in pictures():
        metric.update(answer(scores), truth(labels), name=name)
        for y, x in np.ndindex(*labels.shape):
            if (true := int(labels[y, x])) < 0:
                continue
            given = scores[:, y, x].tolist()
            bins[min(int(max(given) * 10), 9)].append((max(given), given.index(max(given)) == true))
            brier.append(sum((p - (label == true)) ** 2 for label, p in enumerate(given)))
            nll.append(-np.log(given[true]))
    gaps = [abs(np.mean([c for c, _ in one]) - np.mean([r for _, r in one])) if one else 0 for one in bins]
    whole = [pair for one in bins for pair in one]
    kept = metric.compute()
    assert kept.scores() == pytest.approx(
        {
            "ece": sum(len(one) * gap for one, gap in zip(bins, gaps, strict=True)) / len(whole),
            "mce": max(gaps),
            "brier": np.mean(brier),
            "nll": np.mean(nll),
            "overconfidence": np.mean([c for c, _ in whole]) - np.mean([r for _, r in whole]),
        },
        abs=1e-4,
    )
    assert kept.reliability.share == pytest.approx([len(one) / len(whole) for one in bins])
    assert kept.reliability.right[9] == pytest.approx(np.mean([right for _, right in bins[9]]))


def test_right_and_certain_answers_are_calibrated_and_unlabelled_pixels_do_not_count():
    labels = torch.tensor([[0, 1, 2, -1]])
    scores = torch.nn.functional.one_hot(labels.clamp(min=0), 3).permute(2, 0, 1).float()
    metric = Calibration(CLASSES)
    metric.update(answer(scores), truth(labels), name="a")
    assert metric.compute().scores() == pytest.approx(
        dict.fromkeys(["ece", "mce", "brier", "nll", "overconfidence"], 0), abs=1e-4
    )
    assert metric.compute().rows[0, 0, :15].sum() == 3
    metric.reset()
    metric.update(answer(scores), truth(torch.full((1, 4), -1)), name="a")
    assert np.isnan(list(metric.compute().scores().values())).all()


def test_scores_that_were_not_asked_for_and_other_sizes_are_refused():
    metric = Calibration(CLASSES)
    with pytest.raises(ValueError, match="has no scores; ask for it with `scores=True`"):
        metric.update(SemanticMap(torch.zeros(1, 4, dtype=torch.long)), truth(torch.zeros(1, 4).long()), name="a")
    with pytest.raises(ValueError, match=r"\(1, 3\) and the truth \(1, 4\) of 'a' differ"):
        metric.update(answer(torch.rand(3, 1, 3)), truth(torch.zeros(1, 4).long()), name="a")
    with pytest.raises(ValueError, match="at least two; got 1"):
        Calibration(CLASSES, bins=1)


def test_it_is_kept_in_a_file(tmp_path):
    metric = Calibration(CLASSES)
    for name, scores, labels in pictures():
        metric.update(answer(scores), truth(labels), name=name)
    kept = metric.compute()
    save(kept, tmp_path / "pictures.npz")
    read = load(tmp_path / "pictures.npz")
    assert isinstance(read, CalibrationPictures)
    assert read.scores() == kept.scores()


# --- instances ---


def instances():
    """A hit, a miss, one in a crowd, and an object that nobody finds."""
    masks = torch.zeros(5, 20, 40, dtype=torch.bool)
    for mask, left in zip(masks, (0, 8, 16, 1, 24), strict=True):
        mask[2:10, left : left + 7] = True
    segments = torch.zeros(1, 20, 40, dtype=torch.uint8)
    segments[0, masks[0]], segments[0, masks[2]], segments[0, masks[4]] = 1, 2, 3
    target = Target(segments, torch.tensor([2, 2, 2]), torch.tensor([False, True, False]))
    found = Instances(masks[[3, 1, 2]], torch.tensor([2, 2, 2]), torch.tensor([0.9, 0.6, 0.5]), torch.zeros(3, 4))
    return found, target


def test_detections_are_right_from_an_overlap_of_half_on_and_crowds_do_not_count():
    metric = InstanceCalibration(CLASSES, bins=5)
    metric.update(*instances(), name="a")
    rows = metric.compute().rows[0, 0]
    assert rows[:5].tolist() == [0, 0, 0, 1, 1]
    assert rows[5:10].tolist() == [0, 0, 0, 0, 1]
    scores = metric.compute().scores()
    assert scores["ece"] == pytest.approx((0.1 + 0.6) / 2, abs=1e-3)
    assert scores["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.6**2) / 2, abs=1e-6)
    assert scores["nll"] == pytest.approx(-(np.log(0.9) + np.log(0.4)) / 2, abs=1e-6)
    logs, true = metric.evidence(*instances(), name="a", count=1, seed=0)
    torch.testing.assert_close(logs.exp(), torch.tensor([[0.1, 0.9], [0.4, 0.6]]))
    assert true.tolist() == [1, 0]


def test_instances_below_a_score_are_left_out():
    metric = InstanceCalibration(CLASSES, bins=5, above=0.7)
    metric.update(*instances(), name="a")
    assert metric.compute().rows[0, 0, :5].sum() == 1


def test_segments_are_right_where_pq_matches_them_and_excused_ones_do_not_count():
    segments = torch.zeros(1, 10, 20, dtype=torch.uint8)
    segments[0, :, :5], segments[0, :, 5:10] = 1, 2
    found = torch.zeros(10, 20, dtype=torch.int32)
    found[:, :4], found[:, 4:10], found[:, 12:] = 1, 2, 3
    target = Target(segments, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool))
    answer = Panoptic(found, torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.7, 0.6]))
    metric = PanopticCalibration(CLASSES, bins=5)
    metric.update(answer, target, name="a")
    rows = metric.compute().rows[0, 0]
    assert rows[:5].tolist() == [0, 0, 0, 1, 1]
    assert rows[5:10].tolist() == [0, 0, 0, 0, 1]
    assert metric.compute().scores()["brier"] == pytest.approx((2 * 0.1**2 + 2 * 0.7**2) / 2, abs=1e-6)
    torch.testing.assert_close(answer.tempered(2.0).scores, (answer.scores.logit() / 2).sigmoid())


# --- temperature ---


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(sharpness):
    parts = [
        Calibration(CLASSES).evidence(answer(scores), truth(labels), name=name, count=10**6, seed=0)
        for name, scores, labels in pictures(120, sharpness)
    ]
    evidence = Evidence(*(torch.cat(part) for part in zip(*parts, strict=True)))
    assert fit_temperature(evidence) == pytest.approx(sharpness, rel=0.05)


def test_evidence_is_a_bounded_part_of_the_labelled_pixels_and_always_the_same():
    [(name, scores, labels)] = pictures(1)
    told = {"name": name, "count": 20, "seed": 3}
    logs, true = Calibration(CLASSES).evidence(answer(scores), truth(labels), **told)
    again = Calibration(CLASSES).evidence(answer(scores), truth(labels), **told)
    other = Calibration(CLASSES).evidence(answer(scores), truth(labels), **told | {"seed": 4})
    assert logs.shape == (20, 3)
    assert true.min() >= 0
    assert torch.equal(logs, again.logs)
    assert not torch.equal(logs, other.logs)
    rows = {tuple(row) for row in scores.log().flatten(1).T[labels.flatten() >= 0].tolist()}
    assert {tuple(row) for row in logs.tolist()} <= rows


def test_answers_that_no_temperature_calibrates_are_refused():
    logs = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    with pytest.raises(ValueError, match="no temperature calibrates them"):
        fit_temperature(Evidence(logs, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="there are none"):
        fit_temperature(Evidence(logs[:0], torch.zeros(0, dtype=torch.long)))


def test_temperature_leaves_labels_and_mass_and_equals_that_of_logits():
    logits = torch.randn(3, 6, 7)
    whole = answer(logits.softmax(0)).tempered(1.7)
    torch.testing.assert_close(whole.scores, (logits / 1.7).softmax(0))
    torch.testing.assert_close(whole.confidence, whole.scores.max(0).values)
    part = answer(0.6 * logits.softmax(0)).tempered(0.3)
    assert torch.equal(part.labels, logits.argmax(0))
    torch.testing.assert_close(part.scores.sum(0), torch.full((6, 7), 0.6))
    labels = SemanticMap(logits.argmax(0))
    assert labels.tempered(2.0) is labels


def test_temperature_of_detections_is_that_of_their_log_odds_and_keeps_their_order():
    found, _ = instances()
    tempered = found.tempered(2.0)
    torch.testing.assert_close(tempered.scores, (found.scores.logit() / 2).sigmoid())
    assert torch.equal(
        Instances(*[getattr(found, k) for k in ("masks", "labels")], torch.tensor([1.0, 0.5, 0.0]), found.boxes)
        .tempered(3.0)
        .scores,
        torch.tensor([1.0, 0.5, 0.0]),
    )
