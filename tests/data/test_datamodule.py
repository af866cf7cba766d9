"""One DataModule: the same epoch for any number of workers, padded batches, and errors before training."""

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import albumentations as A
import jsonargparse
import numpy as np
import pytest
import torch
import yaml

from trimask.data import Folder, SegmentationDataModule
from trimask.data.color import ColorJitter
from trimask.data.datamodule import _Keyed
from trimask.data.mix import Draw
from trimask.data.remap import Remap
from trimask.data.sampling import Key, RareClass, RepeatFactor
from trimask.data.transforms import Augment, Warp
from trimask.types import ClassSpec, DataError, Sample


class Numbers:
    """Twenty pictures of different sizes, each filled with its own index."""

    offers = frozenset({"semantic"})

    def __init__(self, split, length=20, label=1):
        self.classes = ClassSpec(["even", "odd"])
        self.length, self.label = length, label

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        height, width = 20 + index, 30 - index
        image = np.full((height, width, 3), index, np.uint8)
        segments = np.ones((1, height, width), np.uint8)
        return Sample(image, segments, np.array([index % 2 * self.label]), np.zeros(1, bool), f"picture{index}")


def epoch_pictures(num_workers):
    data = SegmentationDataModule(
        Numbers,
        augment=[Warp((16, 16), scale=(0.5, 2), flip=0.5, fill=0), A.GaussNoise(p=0.5)],
        batch_size=4,
        num_workers=num_workers,
    )
    return [(batch.names, batch.images) for batch in data.train_dataloader()]


def test_an_epoch_is_the_same_for_any_number_of_workers():
    alone = epoch_pictures(0)
    assert len(alone) == 5
    for workers in (2, 4):
        for (names, images), (other_names, other_images) in zip(alone, epoch_pictures(workers), strict=True):
            assert names == other_names
            assert torch.equal(images, other_images)


def use(data):
    data.setup("fit")
    data.train_dataloader()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda split: Numbers(split, length=0), {}, "split of Numbers is empty"),
        (lambda split: Numbers(split, length=3), {"batch_size": 4}, "fewer than one batch"),
        (lambda split: Numbers(split, label=7), {}, "picture1: has labels"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(make, options, message):
    data = SegmentationDataModule(make, num_workers=0, **options)
    with pytest.raises(DataError, match=message):
        use(data)


def test_total_batch_size_must_be_divisible():
    data = SegmentationDataModule(Numbers, batch_size=6)
    with pytest.raises(ValueError, match="cannot be divided over 4"):
        data._batch_size_each(4)


# --- what stands between the dataset and the loader ---


class Squares(Numbers):
    """Twelve 20x20 pictures, each filled with its index; two instances, of which the second is rare: in picture 3 only."""

    offers = frozenset({"semantic", "instances"})

    def __init__(self, split):
        self.classes = ClassSpec(["common", "rare", "other"], things=[0, 1, 2])

    def __len__(self):
        return 12

    def __getitem__(self, index):
        segments = np.ones((1, 20, 20), np.uint8)
        segments[0, :5] = 2
        labels = np.array([0, 1 if index == 3 else 2])
        return Sample(np.full((20, 20, 3), index, np.uint8), segments, labels, np.zeros(2, bool), f"{index}")


class Numbered(Squares):
    """Told apart by files that do not matter."""

    def files(self, index):
        return (__file__,)


def squares(dataset=Squares, **options):
    return SegmentationDataModule(dataset, **{"batch_size": 4, "num_workers": 0, **options})


def drawn(data):
    return [name for batch in data.train_dataloader() for name in batch.names]


def test_classes_are_those_of_the_remap():
    data = squares(remap=Remap(merge={"any": ["rare", "other"]}, rest="keep"))
    assert data.classes.names == ("common", "any")
    assert data.class_frequencies().instances.tolist() == [12, 12]
    labels = {int(label) for batch in data.train_dataloader() for labels in batch.labels for label in labels}
    assert labels == {0, 1}
    assert next(iter(data.val_dataloader())).labels[0].tolist() == [0, 1]
    with pytest.raises(DataError, match="no class 'rear'; did you mean 'rare'"):
        squares(remap=Remap(merge={"any": ["rear"]}, rest="keep")).setup("fit")


def test_frequencies_are_those_of_whole_training_pictures():
    data = squares(augment=[Warp((8, 8), fit="native")], balance=RareClass(min_pixels=1), cache="ram", cache_max_side=4)
    assert data.class_frequencies().pixels.tolist() == [12 * 300, 100, 11 * 100]
    assert data.class_frequencies() is data.class_frequencies()


def test_balanced_pictures_come_more_often_and_never_augmented_twice_alike():
    noise = [A.GaussNoise(p=1.0)]
    assert sorted(drawn(squares())) == sorted(f"{index}" for index in range(12))
    data = squares(balance=RareClass(temperature=0.05, min_pixels=100), augment=noise)
    batches = list(data.train_dataloader())
    assert [name for batch in batches for name in batch.names].count("3") >= 5
    images = [image for batch in batches for image, name in zip(batch.images, batch.names, strict=True) if name == "3"]
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    assert drawn(squares(balance=RepeatFactor(1.0))).count("3") >= 2


def test_the_window_is_drawn_for_the_sake_of_the_class():
    warp = Warp((5, 5), fit="native", rare_class_pixels=15)
    data = squares(balance=RareClass(temperature=1e-3, min_pixels=100), augment=[warp])
    for batch in data.train_dataloader():
        assert batch.names == ("3",) * 4
        assert all((batch.target(index).semantic() == 1).sum() >= 15 for index in range(4))


def test_a_balance_that_finds_nothing_is_refused_before_training():
    with pytest.raises(DataError, match="no picture has 3000 pixels of any class"):
        squares(balance=RareClass()).setup("fit")


@pytest.mark.parametrize(("rank", "reads"), [("0", True), ("1", False)])
def test_one_process_of_a_machine_checks_the_pictures(rank, reads, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", rank)
    data = SegmentationDataModule(lambda split: Numbers(split, label=7), num_workers=0)
    with pytest.raises(DataError, match="picture1: has labels") if reads else nullcontext():
        data.setup("fit")


@pytest.mark.parametrize("change", [{"balance": None}, {"balance": RepeatFactor(0.2)}])
def test_a_run_is_not_continued_with_another_balance(change):
    state = squares(balance=RepeatFactor(0.5)).state_dict()
    squares(balance=RepeatFactor(0.5)).train_dataloader().load_state_dict(state)
    with pytest.raises(ValueError, match="The run cannot be continued"):
        squares(**change).train_dataloader().load_state_dict(state)
    assert squares().state_dict() == {"num_samples": 12, "step": 4, "seed": 0, "used": 3}, "as in older checkpoints"


class Chain:
    """Writes what it is given into the name."""

    def __init__(self, draws=2):
        self.draws = draws
        self.bound = None

    def bind(self, classes: ClassSpec, offers: frozenset[str]) -> None:
        if "instances" not in offers:
            raise DataError("Chain needs instances")
        self.bound = classes.names

    def __call__(self, sample: Sample, draw: Draw, generator: np.random.Generator) -> Sample:
        assert self.bound == ("common", "rare", "other")
        others = [draw() for _ in range(self.draws)]
        marks = [f"{one.name}={int(one.image.sum())}" for one in (sample, *others)]
        return replace(sample, name="+".join([*marks, f"{generator.random():.6f}"]))


def mixed(num_workers=0, **options):
    augment = [Warp((12, 12), fit="native"), A.GaussNoise(p=1.0)]
    return squares(augment=augment, mix=[Chain()], num_workers=num_workers, **options)


def test_a_mix_gets_other_augmented_samples_by_the_key_alone():
    alone, again, workers, other = drawn(mixed()), drawn(mixed()), drawn(mixed(2)), drawn(mixed(seed=1))
    assert alone == again == workers
    assert not set(alone) & set(other)
    chains = [name.split("+") for name in alone]
    for first, *others, _ in chains:
        assert first.split("=")[0] not in [one.split("=")[0] for one in others], "never the sample itself"
    marks = [mark for chain in chains for mark in chain]
    assert len(set(marks)) == len(marks), "no two draws are the same"
    assert {mark.split("=")[0] for _, *others, _ in chains for mark in others} >= {f"{n}" for n in range(6)}
    unmixed = squares(augment=[Warp((12, 12), fit="native"), A.GaussNoise(p=1.0)])
    sums = {
        f"{name}={int(image.sum())}"
        for b in unmixed.train_dataloader()
        for name, image in zip(b.names, b.images, strict=True)
    }
    assert {chain[0] for chain in chains} == sums, "a mix does not change what it is given"


def test_a_training_sample_by_itself_is_the_one_of_the_epoch():
    data = mixed()
    epoch = {name.split("=")[0]: name for name in drawn(mixed())}
    for index in range(6):
        assert data.training_sample(index).name == epoch[str(index)]
    assert data.training_sample(0, epoch=1).name != epoch["0"]


def test_data_that_cannot_be_mixed_are_refused_before_training():
    with pytest.raises(DataError, match="Chain needs instances"):
        SegmentationDataModule(Numbers, mix=[Chain()], num_workers=0, batch_size=4).setup("fit")
    assert mixed().val_dataloader().dataset[Key(0, 1)].name == "1", "evaluation is not mixed"


def test_a_single_picture_is_mixed_with_itself():
    keyed = _Keyed([Squares("train")[0]], Augment([]), [lambda sample, draw, generator: draw()], 0)
    assert keyed[Key(0, 0)].name == "0"


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_a_cache_are_the_same(cache, num_workers, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path))
    options = {
        "augment": [Warp((12, 12), fit="native", flip=0.5)],
        "remap": Remap(merge={"rare": ["other"]}, rest="keep"),
    }
    plain = list(squares(Numbered, **options).train_dataloader())
    data = squares(Numbered, cache=cache, num_workers=num_workers, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    for _ in range(2):
        for one, other in zip(plain, loader, strict=True):
            assert one.names == other.names
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.segments, other.segments)
    assert bool(list(tmp_path.glob("samples/*/*.sample"))) == (cache == "disk")


def test_training_pictures_alone_are_kept_smaller():
    data = squares(Numbered, cache="ram", cache_max_side=10)
    assert data.split("train")[0].size == (10, 10)
    assert data.split("val")[0].size == data.split("test")[0].size == (20, 20)


def test_a_cached_sample_survives_transforms_that_write_in_place():
    class InPlace(A.ImageOnlyTransform):
        def apply(self, img, **params):
            img[:] = 200
            return img

    data = squares(Numbered, cache="ram", augment=[InPlace(p=1.0)])
    for batch in data.train_dataloader():
        assert (batch.images == 200).all()
    assert [int(data.split("train")[index].image.max()) for index in range(12)] == list(range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_limit": 1.0}, "no effect without data.cache"),
        ({"cache": "ram", "cache_limit": 0}, "are positive; got 0 and None"),
        ({"cache": "disk", "cache_max_side": 0}, "are positive; got None and 0"),
    ],
)
def test_settings_of_the_cache_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        squares(**options)


def test_everything_can_be_said_in_yaml():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SegmentationDataModule, "data")
    text = """
    dataset: {class_path: trimask.data.Shapes, init_args: {length: 8}}
    remap: {names: [round], merge: {round: [circle]}, rest: ignore}
    balance: {class_path: trimask.data.sampling.RepeatFactor, init_args: {threshold: 0.1}}
    mix: [{class_path: trimask.data.mix.Mosaic, init_args: {p: 0.5}}]
    cache: ram
    cache_limit: 0.5
    cache_max_side: 64
    """
    data = parser.instantiate(parser.parse_object({"data": yaml.safe_load(text)})).data
    assert (data.classes.names, data.classes.things) == (("round",), {0})
    assert data.balance.threshold == 0.1
    assert data.mix[0].p == 0.5
    assert data._store.limit == 5 * 10**8


BDD = Path(os.environ.get("TRIMASK_DATA", "/nonexistent")) / "bdd100k_drivable" / "bdd100k"
COLORS = {"ff0000": "direct", "0000ff": "alternative", "000000": "none", "d9534f": "direct", "5bc0de": "alternative"}


@pytest.mark.slow
@pytest.mark.skipif(not BDD.is_dir(), reason="TRIMASK_DATA holds no bdd100k_drivable")
def test_real_pictures_from_a_cache_feed_a_step_that_takes_no_time(tmp_path, monkeypatch):
    """Counted in time of the processor, since the machine may be busy: 150 pictures a second take 6.7 ms each."""
    psutil = pytest.importorskip("psutil")
    monkeypatch.setenv("TRIMASK_CACHE", str(tmp_path))
    data = SegmentationDataModule(
        lambda split: Folder(
            "all",
            root=BDD,
            images=f"images/100k/{split}",
            masks=f"drivable_maps/color_labels/{split}",
            mask_suffix="_drivable_color",
            classes={"names": ["direct", "alternative", "none"], "colors": COLORS},
        ),
        augment=[
            Warp((512, 512), fit="native", scale=(0.5, 2.0), flip=0.5),
            ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.05, 0.05)),
        ],
        cache="disk",
        num_workers=2,
    )
    data.setup("fit")
    loader = data.train_dataloader()
    list(loader)
    children = psutil.Process().children()

    def spent():
        return sum(sum(child.cpu_times()[:2]) for child in children) + time.process_time()

    milliseconds = []
    for _ in range(4):
        start = spent()
        assert sum(len(batch) for batch in loader) == 160
        milliseconds.append(1000 * (spent() - start) / 160)
    print(f"{min(milliseconds):.2f} ms of a processor a picture")
    assert min(milliseconds) < 1000 / 150, "neighbors slow a processor down; none makes it faster"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": np.full((1, 8, 8), 5, np.uint8)}, r"`segments` holds ids up to 5 .* for 1 labels"),
        ({"labels": np.array([0, 0])}, "for 2 labels and 1 marks of crowds"),
        ({"labels": [0]}, r"`labels` is an array \(N,\) of int64; got list"),
        ({"segments": np.ones((8, 8), np.uint8)}, r"`segments` is an array \(L, H, W\).*uint8 \(8, 8\)"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, r"`image` is an array .* of uint8.*float32"),
        ({"image": np.zeros((8, 8, 3), np.uint16)}, "`image` is an array .* of uint8.*uint16"),
    ],
)
def test_a_sample_of_another_form_is_told(change, message):
    class Strange(Numbers):
        def __getitem__(self, index):
            one = {"image": np.zeros((8, 8, 3), np.uint8), "segments": np.ones((1, 8, 8), np.uint8)}
            one |= {"labels": np.array([0]), "is_crowd": np.array([False]), "name": str(index)}
            return Sample(**(one | change))

    with pytest.raises(DataError, match=message):
        SegmentationDataModule(Strange, batch_size=1, num_workers=0).check("fit")


def test_a_data_set_of_another_kind_is_told():
    class Pairs(Numbers):
        def __getitem__(self, index):
            return super().__getitem__(index).image, np.zeros((4, 4))

    with pytest.raises(DataError, match=r"gives a tuple.*trimask\.types\.Sample"):
        SegmentationDataModule(Pairs, batch_size=1, num_workers=0).check("fit")
    with pytest.raises(DataError, match="list has no classes"):
        SegmentationDataModule(lambda split: [1, 2], num_workers=0).split("train")


def test_the_tags_of_the_pictures_that_were_checked_are_known():
    class Tagged(Numbers):
        def __getitem__(self, index):
            tags = {"size": "large"} if index % 2 else {"size": "small", "color": "gray"}
            return replace(super().__getitem__(index), meta=tags)

    data = SegmentationDataModule(Tagged, batch_size=4, num_workers=0)
    assert data.tags("val") is None
    data.check("validate")
    assert data.tags("val") == {"size": {"large", "small"}, "color": {"gray"}}
    assert data.tags("test") is None
    unread = SegmentationDataModule(Tagged, batch_size=4, num_workers=0, check_first=0)
    unread.check("validate")
    assert unread.tags("val") is None
