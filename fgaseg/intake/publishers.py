"""What the publishers offer: archives with the sizes and digests that are known, and where each file belongs.

A place is told by the file's own path, whatever the archive is called and however deep it is nested. What fits no place is
not needed and left out. Places can hold no `..`, for their patterns have none.
"""

import re
from dataclasses import dataclass

VOC_STEM = r"\d{4}_\d{6}"


@dataclass(frozen=True)
class Archive:
    """A download by its publisher's name; `size` in bytes and `digest` ("md5:...", "sha1:...", "sha256:...") where known."""

    name: str
    url: str
    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Place:
    """Files whose path ends in `pattern` belong to `target` below the data root, a template of the pattern's groups."""

    pattern: str
    target: str


@dataclass(frozen=True)
class Publication:
    """A dataset's page, its archives, and the places of its files."""

    page: str
    archives: tuple[Archive, ...]
    places: tuple[Place, ...]

    def target(self, path: str) -> str | None:
        """Where the file with this path, parts separated by /, belongs below the data root; None where it is not needed."""
        for place in self.places:
            match = re.fullmatch(rf"(?:.*/)?{place.pattern}", path, re.ASCII)
            if match:
                return match.expand(place.target)
        return None


_COCO = "http://images.cocodataset.org/zips"
_TRAIN = Archive(
    "train2017.zip",
    f"{_COCO}/train2017.zip",
    19336861798,
    "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
)
_VAL = Archive(
    "val2017.zip",
    f"{_COCO}/val2017.zip",
    815585330,
    "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
)
_MAPS = Archive(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
_CHALLENGE = Archive(
    "ADEChallengeData2016.zip",
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    digest="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)
_FULL = Archive("ADE20K_2021_17_01.zip", "by request at https://ade20k.csail.mit.edu")
_VOC_2012 = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
)
_VOC_2010 = Archive(
    "VOCtrainval_03-May-2010.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    digest="md5:da459979d0c395079b5c75ee67908abb",
)
_AUGMENTED = Archive("SegmentationClassAug.zip", "https://www.dropbox.com/s/oeu149j8qtbs1x0/SegmentationClassAug.zip")
_SEGMENTS = Archive("trainval_merged.json", "https://codalabuser.blob.core.windows.net/public/trainval_merged.json")
_LABEL_MAPS = Archive("trainval.tar.gz", "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz")


def _coco(split: str, images: Archive) -> Publication:
    return Publication(
        "https://github.com/nightrome/cocostuff",
        (images, _MAPS),
        (
            Place(rf"{split}2017/(\d{{12}}\.jpg)", rf"coco/{split}2017/\1"),
            Place(rf"{split}2017/(\d{{12}}\.png)", rf"coco/stuffthingmaps/{split}2017/\1"),
        ),
    )


_CONTEXT_PAGE = "https://www.cs.stanford.edu/~roozbeh/pascal-context"
_CONTEXT_PLACES = (
    Place(rf"VOC2010/JPEGImages/({VOC_STEM}\.jpg)", r"VOCdevkit/VOC2010/JPEGImages/\1"),
    Place(r"SegmentationContext/(train|val)\.txt", r"VOCdevkit/VOC2010/ImageSets/SegmentationContext/\1.txt"),
    Place(r"(trainval_merged\.json)", r"VOCdevkit/VOC2010/\1"),
    Place(rf"trainval/({VOC_STEM}\.mat)", r"VOCdevkit/VOC2010/trainval/\1"),
)

PUBLICATIONS = {
    "coco-stuff-train": _coco("train", _TRAIN),
    "coco-stuff-val": _coco("val", _VAL),
    "a-150": Publication(
        "http://sceneparsing.csail.mit.edu",
        (_CHALLENGE,),
        (
            Place(r"images/validation/(ADE_val_\d{8}\.jpg)", r"ADEChallengeData2016/images/validation/\1"),
            Place(r"annotations/validation/(ADE_val_\d{8}\.png)", r"ADEChallengeData2016/annotations/validation/\1"),
        ),
    ),
    "a-847": Publication(
        "https://ade20k.csail.mit.edu",
        (_FULL,),
        (
            Place(r"ADE20K_2021_17_01/(index_ade20k\.pkl)", r"ADE20K_2021_17_01/\1"),
            Place(
                r"ADE20K_2021_17_01/(images/ADE/validation/(?:[\w-]+/)+ADE_val_\d{8}(?:\.jpg|_seg\.png))",
                r"ADE20K_2021_17_01/\1",
            ),
        ),
    ),
    "pc-59": Publication(_CONTEXT_PAGE, (_VOC_2010, _SEGMENTS), _CONTEXT_PLACES),
    "pc-459": Publication(_CONTEXT_PAGE, (_VOC_2010, _LABEL_MAPS), _CONTEXT_PLACES),
    "pas-20": Publication(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        (_VOC_2012, _AUGMENTED),
        (
            Place(rf"VOC2012/JPEGImages/({VOC_STEM}\.jpg)", r"VOCdevkit/VOC2012/JPEGImages/\1"),
            Place(r"VOC2012/ImageSets/Segmentation/(\w+\.txt)", r"VOCdevkit/VOC2012/ImageSets/Segmentation/\1"),
            Place(rf"SegmentationClassAug/({VOC_STEM}\.png)", r"VOCdevkit/VOC2012/SegmentationClassAug/\1"),
        ),
    ),
}
