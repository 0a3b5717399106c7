"""Whether the data are those that a paper describes: ``--expect NAME``.

The numbers are those of the predecessor's code and paper (Boyd et al., "CYBORG: Blending Human
Saliency Into the Loss Improves Deep Learning-Based Synthetic Face Detection", WACV 2023). No
source says how many fakes each of its test sets holds, nor whether each training image has a human
map: of those one is enough.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from focus.data.generators import canonical
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Split


@dataclass(frozen=True)
class DataSet:
    """How many images there are, and in which test sets.

    csv: what ``--data`` should be. train, validation: (real, synthetic). maps: whether training
    images have human maps. test_fakes: names of ``--test-data``. test_reals: how many images by the
    name of ``--test-real``.
    """

    csv: str
    train: tuple[int, int]
    validation: tuple[int, int]
    maps: bool
    test_fakes: tuple[str, ...]
    test_reals: Mapping[str, int]


_FAKES = ("ProGAN", "StarGANv2", "StyleGAN", "StyleGAN2", "StyleGAN2-ADA", "StyleGAN3")
_REALS = {"CelebA-HQ": 30_000, "FFHQ": 70_000}
_VALIDATION = (10_000, 10_000)

DATA_SETS: Mapping[str, DataSet] = {
    "cyborg": DataSet("original.csv", (919, 902), _VALIDATION, True, _FAKES, _REALS),
    # Its validation set is taken to be the same, and its further images to have no human maps.
    "cyborg-7x": DataSet("the 7x CSV", (6_433, 6_314), _VALIDATION, False, _FAKES, _REALS),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One expectation: images got and expected, exactly or at least; what to do if not met."""

    what: str
    got: int
    expected: int
    remedy: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the number is right."""
        return self.got >= self.expected if self.at_least else self.got == self.expected

    def __str__(self) -> str:
        least = "at least " if self.at_least else ""
        return f"{self.what}: got {self.got}, expected {least}{self.expected}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """With which data set, what of it is not met, how many training images have a human map."""

    name: str
    unmet: tuple[Point, ...]
    train: int
    train_with_map: int


def compare(name: str, manifest: Manifest) -> Comparison:
    """The images, with their splits, against ``DATA_SETS[name]``; raises KeyError."""
    train = manifest.split("train")
    with_map = sum(sample.map_path is not None for sample in train)
    unmet = tuple(point for point in _points(DATA_SETS[name], manifest) if not point.met)
    return Comparison(name, unmet, len(train), with_map)


def _points(data: DataSet, manifest: Manifest) -> Iterator[Point]:
    kinds = Counter((sample.split, sample.label) for sample in manifest)
    # The CSV calls its validation set "test".
    splits: tuple[tuple[Split, str, tuple[int, int]], ...] = (
        ("train", "train", data.train),
        ("validation", "test", data.validation),
    )
    for split, in_csv, numbers in splits:
        for label, in_words, number in zip((REAL, SYNTHETIC), LABEL_NAMES, numbers, strict=True):
            yield Point(
                f"{split} {in_words}",
                kinds[split, label],
                number,
                f"give {data.csv} as it came, whole (its rows {in_csv},{in_words.capitalize()})",
            )

    maps = Counter(sample.split == "train" for sample in manifest if sample.map_path is not None)
    if data.maps:
        yield Point(
            "training images with a human map",
            maps[True],
            1,
            "give the folder of the human maps by --heatmaps DIR",
            at_least=True,
        )
    # The maps are of training images; elsewhere one is that of another image of the same name.
    yield Point(
        "images with a human map that are not for training",
        maps[False],
        0,
        "take the folder of the human maps out of --data-root and give it by --heatmaps DIR",
    )

    tests = manifest.split("test")
    fakes = Counter(canonical(s.generator) for s in tests if s.label == SYNTHETIC)
    reals = Counter(canonical(s.extra.get("source", "")) for s in tests if s.label == REAL)
    for name in data.test_fakes:
        remedy = f"give its CSV by --test-data {name}=CSV"
        yield Point(f"test fakes of {name}", fakes[canonical(name)], 1, remedy, at_least=True)
    # Its test sets hold one class each; the source of a real is the name of its --test-real.
    yield Point(
        "real images in the test sets of fakes", reals[""], 0, "give real images by --test-real"
    )
    for name, number in data.test_reals.items():
        remedy = f"give its CSV, whole, by --test-real {name}=CSV"
        yield Point(f"test reals of {name}", reals[canonical(name)], number, remedy)
