"""Other classes than the dataset's: every old class accounted for, ids compact, nothing silent."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimask.data.remap import Remap, Remapped, relabel
from trimask.types import ClassSpec, DataError, FileDataset, Sample

OLD = ClassSpec(["road", "sky", "car", "truck", "person"], things=[2, 3, 4], ignore_index=255)


class Scenes:
    """One scene given as layers and labels."""

    classes = OLD

    def __init__(self, segments=((1, 2), (3, 4)), labels=(0, 1, 2, 3), crowd=None, offers=("semantic", "panoptic")):
        self.segments, self.labels, self.offers = segments, labels, frozenset(offers)
        self.crowd = crowd or [False] * len(labels)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        segments = np.array(self.segments, np.uint8)
        segments = segments if segments.ndim == 3 else segments[None]
        image = np.zeros((*segments.shape[1:], 3), np.uint8)
        return Sample(image, segments, np.array(self.labels), np.array(self.crowd, bool), "scene", {"weather": "rain"})


class FiledScenes(Scenes):
    def files(self, index):
        return ("/scene.jpg",)


def test_new_classes_with_names_things_and_colors():
    remap = Remap(names=["vehicle", "road"], merge={"vehicle": ["truck", "car"]}, ignore=["sky"], rest="ignore")
    classes, table = remap.plan(OLD)
    assert classes.names == ("vehicle", "road")
    assert classes.things == {0}
    assert classes.colors.tolist() == [OLD.colors[3].tolist(), OLD.colors[0].tolist()]
    assert table.tolist() == [1, -1, 0, 0, -1]


def test_without_names_the_order_is_that_of_the_old_classes():
    classes, table = Remap(merge={"car": ["truck"]}, rest="keep").plan(OLD)
    assert classes.names == ("road", "sky", "car", "person")
    assert table.tolist() == [0, 1, 2, 2, 3]
    assert classes.colors[2].tolist() == OLD.colors[2].tolist(), "a class that keeps its name keeps its color"


def test_rest_joins_a_class_and_things_and_colors_may_be_said():
    remap = Remap(merge={"other": ["sky"]}, names=["person", "other"], rest="other", things=["person"])
    remap.colors = {"other": "0a0b0c"}
    classes, table = remap.plan(OLD)
    assert (classes.names, classes.things, table.tolist()) == (("person", "other"), {0}, [1, 1, 1, 1, 0])
    assert classes.colors[1].tolist() == [10, 11, 12]


def test_names_that_change_places():
    _, table = Remap(merge={"car": ["truck"], "truck": ["car"]}, rest="ignore").plan(OLD)
    assert table.tolist() == [-1, -1, 0, 1, -1]


@pytest.mark.parametrize(
    ("remap", "message"),
    [
        (Remap(names=["road"]), r"nothing is said of the classes \['sky', 'car', 'truck', 'person'\].*`rest: keep`"),
        (Remap(merge={"x": ["cra"]}, rest="keep"), "no class 'cra'; did you mean 'car'"),
        (Remap(ignore=["zebra"], rest="keep"), "no class 'zebra'; there are road, sky"),
        (Remap(merge={"x": ["car"]}, ignore=["car"], rest="keep"), "'car' is named twice"),
        (Remap(ignore=list(OLD.names)), "every class is ignored"),
        (Remap(names=["raod"], rest="keep"), "'raod' comes from no class that is left; did you mean 'road'"),
        (Remap(merge={"vehicle": ["car"]}, names=["vehicel"], rest="ignore"), "'vehicel' comes from no class"),
        (Remap(merge={"vehicle": ["car"]}, names=["road"], rest="ignore"), "`names` lacks the new class 'vehicle'"),
        (Remap(rest="kep"), "`rest` is keep, ignore or a new class; 'kep' is none; did you mean 'keep'"),
        (Remap(merge={"x": ["car", "sky"]}, rest="keep"), r"'x' joins countable classes and others.*say `things`"),
        (Remap(rest="keep", things=["peron"]), "`things` names 'peron', which is no new class; did you mean 'person'"),
        (Remap(rest="keep", colors={"road": "red"}), "six hexadecimal digits in quotes; got 'red'"),
    ],
)
def test_mistakes_are_named(remap, message):
    with pytest.raises(DataError, match=message):
        remap.plan(OLD)


def test_merged_things_stay_apart_and_ignored_become_unlabelled():
    remap = Remap(merge={"vehicle": ["car", "truck"]}, ignore=["sky"], rest="keep")
    sample = Remapped(Scenes(crowd=[False, False, True, False]), remap)[0]
    assert sample.segments.tolist() == [[[1, 0], [2, 3]]]
    assert sample.labels.tolist() == [0, 1, 1]
    assert sample.is_crowd.tolist() == [False, True, False]
    assert sample.meta == {"weather": "rain"}


def test_merged_stuff_is_one_segment():
    remap = Remap(merge={"far": ["sky", "truck"]}, rest="keep", things=["car"])
    sample = Remapped(Scenes(crowd=[False, False, False, True]), remap)[0]
    assert sample.segments.tolist() == [[[1, 2], [3, 2]]]
    assert (sample.labels.tolist(), sample.is_crowd.tolist()) == ([0, 1, 2], [False] * 3)


def test_semantic_truth_has_one_segment_a_class():
    remap = Remap(merge={"vehicle": ["car", "truck"]}, rest="keep")
    sample = Remapped(Scenes(offers=["semantic"]), remap)[0]
    assert sample.segments.tolist() == [[[1, 2], [3, 3]]]
    assert sample.labels.tolist() == [0, 1, 2]


def test_layers_that_are_emptied_go_and_a_segment_never_lies_on_itself():
    layers = [[[1, 1, 1]], [[2, 2, 0]], [[3, 0, 0]]]  # road, car upon it, person on top
    scenes = Scenes(layers, labels=(0, 2, 4))
    one = Remapped(scenes, Remap(merge={"ground": ["road", "car"]}, ignore=["person"], rest="keep", things=[]))[0]
    assert one.segments.tolist() == [[[0, 0, 1]], [[1, 1, 0]]]
    assert one.areas().tolist() == [3]
    none = Remapped(scenes, Remap(names=["sky"], rest="ignore"))[0]
    assert none.segments.tolist() == [[[0, 0, 0]]]
    assert len(none.labels) == len(none.is_crowd) == 0


def test_nothing_to_change_costs_nothing():
    sample = Remapped(Scenes(), Remap(merge={"asphalt": ["road"]}, rest="keep"))
    scenes = sample.dataset[0]
    sample.dataset = [scenes]
    assert sample[0].segments is scenes.segments


def test_it_says_its_files_where_the_dataset_does():
    assert not isinstance(Remapped(Scenes(), Remap(rest="keep")), FileDataset)
    dataset = pickle.loads(pickle.dumps(Remapped(FiledScenes(), Remap(rest="keep"))))
    assert isinstance(dataset, FileDataset)
    assert dataset.files(0) == ("/scene.jpg",)
    assert len(dataset) == 1


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6).flatmap(
        lambda labels: st.tuples(
            st.just(labels),
            st.lists(st.lists(st.integers(0, len(labels)), min_size=6, max_size=6), min_size=1, max_size=3),
        )
    ),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=5, max_size=5).filter(any),
)
def test_every_pixel_gets_the_new_class_of_its_old_one(scene, targets):
    labels, layers = scene
    layers = [[i if i % len(layers) == depth else 0 for i in layer] for depth, layer in enumerate(layers)]
    merge = {new: [OLD.names[i] for i, t in enumerate(targets) if t == new] for new in "abc" if new in targets}
    remap = Remap(
        merge=merge, ignore=[OLD.names[i] for i, t in enumerate(targets) if t is None], things=["a"] * ("a" in merge)
    )
    dataset = Remapped(Scenes([[layer] for layer in layers], labels), remap)
    sample = dataset[0]
    for column in range(6):
        before = [labels[layer[column] - 1] for layer in layers if layer[column]]
        expected = {targets[label] for label in before} - {None}
        ids = [int(layer[0, column]) for layer in sample.segments if layer[0, column]]
        assert {dataset.classes.names[sample.labels[i - 1]] for i in ids} == expected
        assert len(set(ids)) == len(ids)
    stuff = [label for label in sample.labels.tolist() if label not in dataset.classes.things]
    assert len(set(stuff)) == len(stuff)


def test_many_segments_are_relabelled_too():
    segments = np.arange(301, dtype=np.int16).reshape(1, 7, 43)
    new = relabel(segments, np.arange(301)[::-1])
    assert new.dtype == np.int16
    assert new.ravel().tolist() == list(range(301))[::-1]
