"""Class weights by rules: the formulas of their papers, and terms that are told before the first batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trimask.losses import CrossEntropy, DenseCriterion, Dice, OhemCrossEntropy
from trimask.losses.class_weights import RULES, ClassWeights
from trimask.outputs import DenseOutput
from trimask.types import Target

# three classes of four occur; the second in a picture of 100 labelled pixels, the others in two of 100 and 200
FREQUENCIES = SimpleNamespace(
    pixels=[250, 20, 30, 0],
    pictures=[2, 1, 2, 0],
    pixels_around=[300, 100, 300, 0],
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("inverse_frequency", [300 / 1000, 300 / 80, 300 / 120, 0]),
        ("median_frequency", [0.2 / (250 / 300), 1.0, 0.2 / 0.1, 0]),
        ("enet", 1 / np.log(1.02 + np.array([250, 20, 30, 0]) / 300)),
        ("espnet", 1 / np.log(1.10 + np.array([250, 20, 30, 0]) / 300)),
        ("auto", 1 / np.log(1.02 + np.array([250, 20, 30, 0]) / 300)),
    ],
)
def test_rules(rule, expected):
    np.testing.assert_allclose(RULES[rule](FREQUENCIES), expected, rtol=1e-12)


def test_the_effective_number_saturates_and_its_mean_is_1():
    few_and_many = SimpleNamespace(pictures=[1, 10, 1000, 10**6, 0], pixels=[1] * 5, pixels_around=[1] * 5)
    weights = RULES["effective_number"](few_and_many)
    effective = (1 - 0.999 ** np.array([1, 10, 1000, 10**6])) / 0.001
    np.testing.assert_allclose(weights[:4] * effective, weights[0])
    assert weights[:4].mean() == pytest.approx(1)
    assert weights[4] == 0


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_split_gives_finite_weights(rule):
    nothing = SimpleNamespace(pixels=[0, 0], pictures=[0, 0], pixels_around=[0, 0])
    assert np.isfinite(RULES[rule](nothing)).all()


def test_auto_is_bounded():
    extreme = SimpleNamespace(pixels=[10**12, 1, 0], pictures=[1] * 3, pixels_around=[1] * 3)
    weights = RULES["auto"](extreme)
    assert weights.max() / weights.min() < 36


def score(term, logits, labels):
    segments = (labels + 1).to(torch.uint8)
    targets = [Target(layer[None], torch.arange(4), torch.zeros(4, dtype=torch.bool)) for layer in segments]
    return DenseCriterion([term])(DenseOutput(logits), targets)[term.name]


@pytest.mark.parametrize("kind", [CrossEntropy, OhemCrossEntropy])
def test_a_rule_is_the_list_that_it_makes(kind):
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    term = kind(class_weights="inverse_frequency")
    assert term.needs_frequencies
    with pytest.raises(ValueError, match="'inverse_frequency' from the training data, which it has not been told of"):
        score(term, logits, labels)
    learned = DenseCriterion([Dice(), term]).learn_frequencies(FREQUENCIES)
    weights = RULES["inverse_frequency"](FREQUENCIES).tolist()
    assert learned == {f"{term.name}: class weights": weights}
    assert torch.equal(score(term, logits, labels), score(kind(class_weights=weights), logits, labels))
    term.learn_frequencies(SimpleNamespace(pixels=[1] * 4, pictures=[1] * 4, pixels_around=[4] * 4))
    assert torch.equal(score(term, logits, labels), score(kind(class_weights=[1.0] * 4), logits, labels)), "told again"


def test_terms_of_auxiliary_heads_are_told_too():
    main, aux = CrossEntropy(class_weights="enet"), CrossEntropy(class_weights="inverse_frequency")
    learned = DenseCriterion([main], aux_terms=[aux]).learn_frequencies(FREQUENCIES)
    assert list(learned) == ["cross_entropy: class weights", "aux cross_entropy: class weights"]
    assert not DenseCriterion([CrossEntropy(class_weights=[1.0])]).needs_frequencies
    shared = DenseCriterion([main])
    assert list(shared.learn_frequencies(FREQUENCIES)) == ["cross_entropy: class weights"]


def test_weights_are_neither_parameters_nor_buffers():
    """The average of a module that is copied before training starts would miss them, and shift all that follow."""
    for given in ([1.0, 2.0], "auto"):
        term = CrossEntropy(class_weights=given)
        term.learn_frequencies(FREQUENCIES)
        assert not list(term.parameters()) + list(term.buffers())
        assert not term.state_dict()


def test_unknown_rules_and_negative_weights_are_refused():
    with pytest.raises(ValueError, match=r"one of auto, inverse_frequency.*; got 'inverse'"):
        CrossEntropy(class_weights="inverse")
    with pytest.raises(ValueError, match="not negative"):
        ClassWeights([1.0, -1.0], "x")
    learned = CrossEntropy(class_weights="enet")
    learned.learn_frequencies(FREQUENCIES)
    with pytest.raises(ValueError, match="4 class weights, but there are 3 classes"):
        score(learned, torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4).long())
