"""The page of samples: what is on it, what lies beside it, and what a reader may ask for."""

import base64
import html
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from trimask import experiments
from trimask.browse import browse
from trimask.cli import main
from trimask.errors import UsageError
from trimask.run.data_source import resolve

SHAPES = {"class_path": "trimask.data.Shapes", "init_args": {"length": 9, "eval_length": 3, "size": [48, 64]}}
WARP = {"class_path": "trimask.data.transforms.Warp", "init_args": {"size": [32, 32], "fit": "native", "flip": 0.5}}
FOLDER = {
    "root": "set",
    "classes": {"names": ["ground", "<person>"], "values": {0: "ground", 1: "<person>", 255: "ignore"}},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with shapes.yaml (augmented), plain.yaml (not) and folder.yaml over five pictures, one broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMASK_DATA", str(tmp_path))
    Path("shapes.yaml").write_text(yaml.safe_dump({"data": {"dataset": SHAPES, "augment": [WARP], "seed": 5}}))
    Path("plain.yaml").write_text(yaml.safe_dump({"data": {"dataset": SHAPES}}))
    folder = {"class_path": "trimask.data.Folder", "init_args": {**FOLDER, "lists": {"train": "all.txt"}}}
    Path("folder.yaml").write_text(yaml.safe_dump({"data": {"dataset": folder}}))
    truth = np.zeros((30, 40), np.uint8)
    truth[10:, 10:], truth[:5] = 1, 255
    for kind, pixels in {"images": truth * 100, "masks": truth}.items():
        Path("set", kind).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(pixels).save(f"set/{kind}/a&b {number}.png")
    Path("set/all.txt").write_text("".join(f"a&b {number}\n" for number in range(5)))
    Path("set/images/a&b 3.png").write_bytes(b"<html>")
    return tmp_path


def cards(page):
    return [html.unescape(re.sub(r"<[^>]+>", " ", card)) for card in re.findall(r"<article.*?</article>", page)]


def written(out):
    return (Path(out) / "index.html").read_text()


def test_the_page_needs_nothing_else(here):
    assert main(["browse", "--data", "shapes.yaml", "--number", "2", "--out", "out"]) == 0
    page = written("out")
    links = re.findall(r"(?:src|href)='?\"?([^'\" >]+)", page)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert "http" not in page
    for kind in ("jpeg", "webp"):
        uri = next(link for link in links if link.startswith(f"data:image/{kind}"))
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels.shape[:2] == (480, 640)


def test_as_it_is_and_three_draws_with_facts(here):
    browse(["--data", "shapes.yaml", "--number", "2", "--out", "out"])
    page = written("out")
    assert len(cards(page)) == 2
    for card in cards(page):
        assert re.search(r"train-0000\d .*64x48 · \d segments? · 0\.0% unlabelled", card)
        assert card.count("as it is") == 1
        assert [card.count(f"epoch {epoch} · 32x32") for epoch in range(4)] == [1, 1, 1, 0]
    assert page.count("<figure>") == 8
    assert len(list(Path("out/panels").glob("*.png"))) == 2


def test_the_draws_are_those_of_training(here):
    options = ["--data.dataset.length=4", "--data.batch_size=1", "--data.num_workers=0"]
    browse(["--data", "shapes.yaml", "--draws", "1", "--augmented", "--out", "out", *options])
    found = re.findall(r"class='image'[^>]*base64,([^']+)", written("out"))
    shown = [
        cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR_RGB)[10::20, 10::20]
        for uri in found
    ]
    (named,) = resolve(None, "shapes.yaml", overrides=options)
    epoch = {batch.names[0]: batch.images[0].permute(1, 2, 0).numpy() for batch in named.data.train_dataloader()}
    assert len(epoch) == len(shown) == 4
    for name, picture in zip(sorted(epoch), shown, strict=True):
        assert np.abs(picture.astype(int) - epoch[name]).mean() < 6, "JPEG of the same picture"


def test_dropped_segments_are_counted(here):
    browse(["--data", "shapes.yaml", "--number", "5", "--draws", "2", "--augmented", "--out", "out"])
    page = written("out")
    lost = sum(int(count) for count in re.findall(r"(\d+) of \d+ segments dropped", page))
    total = re.search(r"(\d+) of (\d+) segments \(([\d.]+)%\) have no pixel left in these draws", page)
    assert lost == int(total[1]) > 0
    assert float(total[3]) == pytest.approx(100 * lost / int(total[2]), abs=0.06)


def test_broken_files_and_strange_names_have_their_place(here, capsys):
    assert browse(["--data", "folder.yaml", "--out", "out"]) == 0
    page = written("out")
    shown = cards(page)
    assert len(shown) == 5
    assert "a&b 3.png: not a picture" in shown[3]
    assert "web page" in shown[3]
    assert "40x30 · 2 segments · 16.7% unlabelled" in shown[0]
    assert "<person> 1" in shown[0]
    assert "<person>" not in page, "escaped"
    assert "5 samples, of which 1 cannot be read" in capsys.readouterr().out
    assert sorted(file.name for file in Path("out/panels").iterdir()) == [f"{i:06d}_a_b_{i}.png" for i in (0, 1, 2, 4)]


def test_the_seed_chooses_the_samples(here):
    def names(seed):
        browse(["--data", "plain.yaml", "--number", "3", "--seed", str(seed), "--out", "out"])
        return re.findall(r"<h3>(.*?)</h3>", written("out"))

    first = names(0)
    assert len(set(first)) == 3
    assert first == sorted(first) == names(0)
    assert len({tuple(names(seed)) for seed in range(1, 3)}) > 1


@pytest.mark.parametrize(
    ("arguments", "captions"),
    [
        (["--data", "shapes.yaml", "--plain"], {"as it is"}),
        (["--data", "shapes.yaml", "--augmented", "--draws", "1"], {"epoch 0"}),
        (["--data", "shapes.yaml", "--split", "val"], {"as it is"}),
        (["--data", "shapes.yaml", "--split", "val", "--augmented", "--draws", "2"], {"epoch 0", "epoch 1"}),
        (["--data", "plain.yaml"], {"as it is"}),
    ],
)
def test_which_versions_are_drawn(here, arguments, captions):
    browse([*arguments, "--number", "1", "--out", "out"])
    found = re.findall(r"<figcaption>(as it is|epoch \d)", written("out"))
    assert set(found) == captions


def test_an_experiment_goes_into_a_folder_of_its_name(here, monkeypatch):
    monkeypatch.setattr(experiments, "home", lambda: Path(__file__).parents[1])
    assert (
        main(["browse", "--exp", "quickstart", "--number", "1", "--data.dataset.eval_length=2", "--split", "val"]) == 0
    )
    assert "quickstart · val" in written("runs/browse/quickstart/val")
    assert "1 of 2 samples" in written("runs/browse/quickstart/val")


def test_a_folder_of_several_sets_shows_what_it_can(here, monkeypatch, capsys):
    several = [*resolve(None, "shapes.yaml"), *resolve(None, "folder.yaml", overrides=["--data.dataset.root=gone"])]
    monkeypatch.setattr("trimask.browse.resolve", lambda *_, **__: several)
    assert browse(["--data", ".", "--number", "2", "--plain", "--out", "out"]) == 0
    assert len(cards(written("out"))) == 3
    assert "gone" in cards(written("out"))[2]
    assert "folder is left out: The data folder" in capsys.readouterr().out.replace("\n", " ")
    assert all(file.name.startswith("0_") for file in Path("out/panels").iterdir())


def test_an_earlier_page_is_replaced_and_nothing_else(here):
    browse(["--data", "plain.yaml", "--number", "3", "--out", "out"])
    browse(["--data", "plain.yaml", "--number", "2", "--out", "out"])
    assert len(list(Path("out/panels").iterdir())) == 2
    Path("mine").mkdir()
    Path("mine/index.html").write_text("<html>my own page</html>")
    Path("file").touch()
    for taken in ("mine", "set", "file"):
        with pytest.raises(UsageError, match=rf"{taken} (holds something else|is a file)"):
            browse(["--data", "plain.yaml", "--out", taken])
    assert Path("mine/index.html").read_text() == "<html>my own page</html>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --exp NAME, or --data"),
        (["--data", "plain.yaml", "--augmented"], "sets no augmentation"),
        (["--data", "plain.yaml", "--augmented", "--plain"], "not allowed with"),
        (["--data", "plain.yaml", "--number", "0"], "no whole number from 1 on"),
        (["--data", "plain.yaml", "--seed", "-1"], "seed"),
        (["--data", "plain.yaml", "--split", "dev"], "invalid choice"),
        (["--data", "plain.yaml", "--nmber", "3"], "nmber"),
        (["--data", "folder.yaml", "--data.dataset.root=gone"], "does not exist"),
    ],
)
def test_mistakes_end_in_a_sentence(here, arguments, message, capsys):
    assert main(["browse", *arguments]) == 2
    assert message in capsys.readouterr().out.replace("\n", " ")
    assert not Path("runs").exists() or not list(Path("runs").rglob("index.html"))
