"""From a checkpoint alone to answers for pictures of any kind and size."""

import io
import socket

import numpy as np
import pytest
import torch
from PIL import Image

import trimask
from trimask.data.datamodule import collate
from trimask.networks.eomt import EoMT
from trimask.pipeline import Pipeline, without_pretrained
from trimask.run.build import build

CONFIG = {
    "data": {
        "dataset": {
            "class_path": "trimask.data.Shapes",
            "init_args": {"length": 4, "eval_length": 3, "size": [40, 56]},
        },
        "num_workers": 0,
    },
    "model": {
        "class_path": "trimask.tasks.SemanticModule",
        "init_args": {
            "network": {
                "class_path": "trimask.networks.fcn.FCN",
                "init_args": {"backbone": "test_resnet", "pretrained": False, "channels": 16, "aux_channels": 16},
            },
            "criterion": {
                "class_path": "trimask.losses.DenseCriterion",
                "init_args": {"terms": [{"class_path": "trimask.losses.CrossEntropy"}]},
            },
            "inference": {"long_side": 64},
        },
    },
}


def save(path, config=CONFIG, **changes):
    """A checkpoint as the command line writes it, of random weights; returns the module and its data."""
    module, data = build(config)
    module.config = {**config["model"], "init_args": {**config["model"]["init_args"], **changes}}
    with torch.no_grad():
        module.network.backbone.mean.add_(3.0)  # mean and std travel with the weights
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return module.eval(), data


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "moved.ckpt"
    module, data = save(path)
    return path, module, data


@pytest.fixture(scope="module")
def pipeline(trained):
    return trimask.load(trained[0], device="cpu")


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (45, 71, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def masks(found):
    return {entry["label"]: np.asarray(entry["mask"]) for entry in found}


def assert_same(one, other):
    one, other = masks(one), masks(other)
    assert one.keys() == other.keys()
    assert all((one[label] == other[label]).all() for label in one)


def test_the_entries_cover_the_picture_once(pipeline, array):
    found = pipeline(array)
    assert {entry["label"] for entry in found} <= set(pipeline.classes.names)
    for entry in found:
        assert entry["mask"].mode == "L"
        assert entry["mask"].size == (71, 45)
        assert 0 < entry["score"] <= 1
    assert (sum(np.asarray(entry["mask"], int) for entry in found) == 255).all()


def test_every_kind_of_picture_gives_the_same_answer(pipeline, array, tmp_path):
    picture = Image.fromarray(array)
    file = tmp_path / "picture.png"
    picture.save(file)
    expected = pipeline(array)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for other in (file, str(file), encoded(picture), picture, tensor, np.asfortranarray(array)):
        assert_same(pipeline(other), expected)


def test_a_batch_has_a_picture(pipeline, array):
    with pytest.raises(ValueError, match="`batch_size` is a number of pictures from 1 on; got 0"):
        pipeline(array, batch_size=0)


def test_gray_and_palette_pictures_are_seen_as_rgb(pipeline, array, tmp_path):
    gray = array[:, :, 0]
    expected = pipeline(np.repeat(gray[:, :, None], 3, axis=2))
    for other in (gray, Image.fromarray(gray), torch.from_numpy(gray), encoded(Image.fromarray(gray))):
        assert_same(pipeline(other), expected)
    palette = Image.fromarray(array).quantize(16)
    assert_same(pipeline(palette), pipeline(palette.convert("RGB")))


def test_transparency_is_left_out(pipeline, array):
    picture = Image.fromarray(np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]))
    assert picture.mode == "RGBA"
    assert_same(pipeline(picture), pipeline(array))
    assert_same(pipeline(encoded(picture)), pipeline(array))


def test_a_turned_photograph_is_answered_upright(pipeline, array):
    picture = Image.fromarray(array)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = encoded(picture, "TIFF", exif=exif)
    found = pipeline(turned)
    assert found[0]["mask"].size == (45, 71)
    assert_same(found, pipeline(np.rot90(array, -1)))
    assert_same(pipeline(Image.open(io.BytesIO(turned))), found)


def test_one_or_many(pipeline, array):
    assert isinstance(pipeline(array)[0], dict)
    assert [len(found) for found in pipeline([array])] == [len(pipeline(array))]
    assert pipeline([]) == []


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (33, 31), (64, 64)])
def test_odd_sizes(pipeline, size):
    found = pipeline(np.zeros((*size, 3), np.uint8))
    assert all(entry["mask"].size == size[::-1] for entry in found)


def test_answers_do_not_depend_on_the_batch(pipeline):
    random = np.random.default_rng(1)
    sizes = [(20, 30), (45, 71), (45, 71), (64, 18), (45, 71)]
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = list(pipeline.answers(pictures, scores=True))
    for batch_size in (2, 5):
        for one, other in zip(alone, pipeline.answers(pictures, batch_size=batch_size, scores=True), strict=True):
            assert torch.equal(one.labels, other.labels)
            torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)


def test_answers_are_those_of_validation(pipeline, trained):
    _, module, data = trained
    samples = [data.split("val")[index] for index in range(3)]
    with torch.inference_mode():
        outcome = module.validation_step(collate(samples), 0)
    answers = pipeline.answers([sample.image for sample in samples], batch_size=3)
    for expected, answer in zip(outcome["answers"], answers, strict=True):
        assert torch.equal(expected.labels, answer.labels)


def test_scores_are_probabilities(pipeline, array):
    [answer] = pipeline.answers([array], scores=True)
    assert answer.scores.shape == (7, 45, 71)
    torch.testing.assert_close(answer.scores.sum(0), torch.ones(45, 71))
    assert (answer.scores.argmax(0) == answer.labels).all()
    [plain] = pipeline.answers([array])
    assert plain.scores is None


def test_pictures_are_read_one_batch_at_a_time(pipeline, array):
    taken = []

    def pictures():
        for number in range(4):
            taken.append(number)
            yield array

    next(pipeline.answers(pictures()))
    assert taken == [0]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "array of float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(2, 4, 4, 3\)"),
        (torch.zeros(3, 4, 4), "array of float32"),
        (7, "int; give a path"),
        ("nowhere.png", "nowhere.png"),
        (b"nothing", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(pipeline, picture, message):
    with pytest.raises(ValueError, match=message):
        pipeline(picture)


def test_half_precision_is_near(trained, array):
    [exact] = trimask.load(trained[0], device="cpu").answers([array])
    [half] = Pipeline.from_checkpoint(trained[0], device="cpu", precision="bf16").answers([array])
    assert (exact.labels == half.labels).float().mean() > 0.9
    with pytest.raises(ValueError, match="'32' or 'bf16'; got '16'"):
        trimask.load(trained[0], precision="16")


# --- the checkpoint ---


def test_classes_colors_and_normalization_travel(pipeline, trained):
    _, module, data = trained
    assert pipeline.classes == data.classes
    assert (pipeline.classes.colors == data.classes.colors).all()
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, pipeline.module.network.state_dict()[name]), name


def test_the_checkpoint_alone_is_enough(tmp_path, monkeypatch):
    """Neither data, nor initial weights, nor the network, nor classes that only training needs, nor code in the file."""
    path = tmp_path / "best.ckpt"
    config = {**CONFIG["model"]["init_args"]["network"]}
    config["init_args"] = {**config["init_args"], "pretrained": "/no/such/weights.pth"}
    gone = {"class_path": "gone.Criterion", "init_args": {"pretrained": "/no/such/file"}}
    save(path, network=config, criterion=gone, optimizer={"class_path": "gone.Optimizer"}, pretrained="/no/such.ckpt")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.setattr("trimask.layers.backbone._initial_weights", only_random_weights)
    monkeypatch.chdir(tmp_path)
    trusting = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: trusting(*given, **{**options, "weights_only": True}))
    assert trimask.load(path)(np.zeros((40, 40, 3), np.uint8))


def only_random_weights(name, pretrained):
    assert pretrained is False
    return {"pretrained": False}


def test_every_pretrained_is_forgotten():
    config = {"pretrained": True, "a": [{"pretrained": "x", "b": 1}], "c": {"pretrained": "pypi"}}
    assert without_pretrained(config) == {
        "pretrained": False,
        "a": [{"pretrained": False, "b": 1}],
        "c": {"pretrained": False},
    }


def test_a_checkpoint_of_a_run_folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path / "checkpoints" / "best.ckpt")
    assert trimask.load(tmp_path).classes.names[0] == "stripes"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "There is no checkpoint"),
        (lambda path: path.write_bytes(b"nothing"), "not a readable checkpoint"),
        (lambda path: torch.save({"state_dict": {}}, path), "was not written by trimask"),
        (lambda path: torch.save(np.zeros(3), path), "not a readable checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, write, message):
    write(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=message):
        trimask.load(tmp_path / "x.ckpt")


def test_a_module_made_in_python_says_so(tmp_path):
    module, _ = build(CONFIG)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="made in Python"):
        trimask.load(tmp_path / "x.ckpt")


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_for_other_channels(tmp_path, channels):
    network = {**CONFIG["model"]["init_args"]["network"]}
    network["init_args"] = {**network["init_args"], "in_channels": channels}
    config = {**CONFIG, "model": {**CONFIG["model"], "init_args": {**CONFIG["model"]["init_args"], "network": network}}}
    save(tmp_path / "x.ckpt", config)
    pipeline = trimask.load(tmp_path / "x.ckpt", device="cpu")
    picture = np.zeros((30, 40, channels), np.uint8)
    assert pipeline(picture)[0]["mask"].size == (40, 30)


def queries(path, task):
    """A checkpoint of EoMT; returns its module."""
    network = {"class_path": "trimask.networks.eomt.EoMT", "init_args": {**EoMT.tiny, "pretrained": False}}
    arguments = {"network": network, "criterion": {"class_path": "trimask.losses.QueryCriterion"}}
    details = {"top": 5} if task == "Instance" else {"score_threshold": 0.0, "overlap_threshold": 0.0}
    model = {"class_path": f"trimask.tasks.{task}Module", "init_args": {**arguments, "details": details}}
    return save(path, {**CONFIG, "model": model})[0]


@pytest.mark.parametrize("task", ["Instance", "Panoptic"])
def test_queries_answer_with_regions_of_every_task(tmp_path, array, task):
    module = queries(tmp_path / "one.ckpt", task)
    assert module.criterion.rule.question == module.question
    entries = trimask.load(tmp_path / "one.ckpt", device="cpu")(array)
    assert entries
    assert {entry["label"] for entry in entries} <= set(module.classes.names)
    assert all(entry["mask"].size == (71, 45) and 0 <= entry["score"] <= 1 for entry in entries)


def test_segments_of_a_panoptic_run(tmp_path, array):
    queries(tmp_path / "one.ckpt", "Panoptic")
    pipeline = trimask.load(tmp_path / "one.ckpt", device="cpu")
    found, regions = pipeline.segments(array), pipeline(array)
    assert found["segments"].shape == (45, 71)
    assert found["segments"].dtype == np.int32
    assert len(found["segments_info"]) == len(regions) > 0
    for row, region in zip(found["segments_info"], regions, strict=True):
        mask = found["segments"] == row["id"]
        assert (mask == (np.asarray(region["mask"]) > 0)).all()
        assert (row["label"], row["score"], row["area"]) == (region["label"], region["score"], mask.sum())
    [again] = pipeline.segments([array])
    assert (again["segments"] == found["segments"]).all()


def test_other_runs_have_no_segments(pipeline, array):
    with pytest.raises(ValueError, match=r"SemanticModule answers SemanticMap\. Call the pipeline itself"):
        pipeline.segments(array)
