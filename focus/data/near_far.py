"""Tell test generators that training knew from near and from far ones, by a table of names.

A family that the data give wins over the one in the table, :data:`FAMILIES`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Literal

from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import shown
from focus.findings import Finding, finding

Relation = Literal["closed", "near", "far"]

SEVERAL = " | "
"""Between the generators that a real image serves."""

FAMILIES: Mapping[str, Mapping[str, str]] = {
    # Generative adversarial networks.
    "progan": {"progan": "pggan pgan progressivegan"},
    "stylegan": {
        "stylegan": "stylegan1 sg1 whichfaceisreal",
        "stylegan2": "sg2 stylegan2f stylegan2configf",
        "stylegan2-ada": "sg2ada stylegan2adapytorch",
        "stylegan3": "sg3 stylegan3t stylegan3r aliasfreegan",
        "stylegan-xl": "sgxl",
        "thispersondoesnotexist": "tpdne",
    },
    "stargan": {"stargan": "starganv1 stargan1", "starganv2": "stargan2"},
    "biggan": {"biggan": "", "biggan-deep": "", "bigbigan": ""},
    "gaugan": {"gaugan": "spade", "gaugan2": ""},
    "vqgan": {"vqgan": "tamingtransformers"},
    "crn": {"crn": "", "imle": ""},
    # Faces exchanged or reenacted.
    "deepfakes": {
        "deepfakes": "deepfake df",
        "deepfakedetection": "dfd",
        "deepfacelab": "dfl",
        "celeb-df": "celebdfv1 celebdfv2",
    },
    "faceswap": {"faceswap": "fs"},
    "face2face": {"face2face": "f2f"},
    "neuraltextures": {"neuraltextures": "nt"},
    "faceshifter": {"faceshifter": "fsh"},
    # Diffusion.
    "adm": {
        "adm": "guided guideddiffusion ablateddiffusion",
        "iddpm": "improveddiffusion",
        "ddpm": "",
        "ddim": "",
    },
    "vqdm": {"vqdm": "vqdiffusion"},
    "stable-diffusion": {
        "ldm": "latentdiffusion",
        "stable-diffusion": "sd sdturbo",
        "stable-diffusion-1.4": "sd14 sdv14 sdv4 stablediffusionv14",
        "stable-diffusion-1.5": "sd15 sdv15 sdv5 stablediffusionv15",
        "stable-diffusion-2": "sd2 sdv2 sd20 sdv20 stablediffusion20 stablediffusionv2",
        "stable-diffusion-2.1": "sd21 sdv21 stablediffusionv21",
        "stable-diffusion-xl": "sdxl sdxlbase stablediffusionxlbase10 stablediffusionxl10",
        "stable-diffusion-3": "sd3 sdv3 sd30 stablediffusion30 stablediffusionv3",
        "stable-diffusion-3.5": "sd35 sdv35 stablediffusionv35",
        "playground": "playgroundai",
        "wukong": "",
    },
    "deepfloyd": {"deepfloyd": "deepfloydif"},
    "pixart": {"pixart": "", "pixart-alpha": "pixarta", "pixart-sigma": ""},
    "flux": {
        "flux": "",
        "flux.1-dev": "fluxdev",
        "flux.1-schnell": "fluxschnell",
        "flux.1-pro": "fluxpro",
    },
    # Services.
    "midjourney": {"midjourney": "mj"},
    "dall-e": {"dall-e": "dalle1", "dall-e-2": "", "dall-e-3": ""},
    "dall-e-mini": {"dall-e-mini": "craiyon"},
    "gpt-image": {"gpt-image": "gptimage1 gpt4oimage gpto4image 4oimage"},
    "imagen": {"imagen": "googleimagen"},
    "firefly": {"firefly": "adobefirefly"},
    # Without relatives and other names; the last ones are the demo set's.
    **{
        name: {name: ""}
        for name in (
            *("cyclegan", "dcgan", "gigagan", "simswap", "glide", "kandinsky"),
            *("hunyuandit", "ideogram", "recraft"),
            *(
                f"{grade}-{n}"
                for grade in ("known", "recombined", "near", "far")
                for n in range(1, 5)
            ),
            "global",
        )
    },
}
"""Family -> {generator: its other names in data sets, apart by spaces}.

A name is looked up without case, spaces and punctuation, so aliases are written in small letters
and digits, and one that differs in nothing else is not listed.

A family is a line of development, whose generators share an architecture or code and so, likely,
what gives them away. What the field tests as different methods stays apart (the manipulations of
FaceForensics++, ADM and GLIDE). A generator without relatives has an entry too: of one whose family
is not known nobody can say that it is far from others.
"""

# What stands for a generator where the data name none.
_NO_NAMES = frozenset({"", "synthetic", "fake", "ai", "unknown"})
# Words that many data sets have in their names: these are aliases only if nothing stands beside.
_COMMON_WORDS = frozenset({"deepfake", "deepfakes", "faceswap", "guided"})


def _plain(name: str) -> str:
    """Return a name without case, spaces and punctuation."""
    return "".join(filter(str.isalnum, name.casefold()))


_PLACES = {
    _plain(alias): (family, _plain(generator))
    for family, generators in FAMILIES.items()
    for generator, aliases in generators.items()
    for alias in (generator, *aliases.split())
}
"""Alias -> its family and the plain name of its generator."""


@lru_cache(maxsize=4096)
def canonical(generator: str) -> str:
    """Return the same text for all names of a generator: "SG2", "StyleGAN-2" and "stylegan2"."""
    plain = _plain(generator)
    return _PLACES[plain][1] if plain in _PLACES else plain


@lru_cache(maxsize=4096)
def family_of(generator: str) -> str:
    """Return the family that the table gives to a name, "" if it knows none.

    A name with more in it belongs to the family of the longest alias among its words, a version at
    the end of a word apart: "stylegan2_ffhq", "imagenet_ai_0508_adm", "Midjourney-v6.1".
    """
    plain = _plain(generator)
    if plain in _PLACES:
        return _PLACES[plain][0]
    words = re.findall(r"[^\W_]+", generator.casefold())
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    # A stable order: the longest, of these the first in the name.
    for run in sorted(runs, key=len, reverse=True):
        for text in (run, re.sub(r"v?\d+$", "", run)):
            if len(text) > 2 and text in _PLACES and text not in _COMMON_WORDS:
                return _PLACES[text][0]
    return ""


def families(fakes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return generator -> family, from the (generator, family) of each fake, sorted.

    The family is the one named most often, else the table's, else "".
    """
    counts_of = defaultdict[str, Counter[str]](Counter)
    for generator, family in fakes:
        counts_of[generator][family] += bool(family)
    return {
        generator: max(sorted(counts), key=counts.__getitem__) or family_of(generator)
        for generator, counts in sorted(counts_of.items())
    }


def training_families(manifest: Manifest) -> dict[str, str]:
    """Return :func:`families` of the fakes among the training images."""
    fakes = manifest.take(manifest.labels == SYNTHETIC)
    return families(fakes.counts("generator", "family").elements())


def with_families(generators: Iterable[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return generator -> family, the table's where none is named."""
    return {name: named.get(name) or family_of(name) for name in generators}


def relation(generator: str, family: str, family_of_training: Mapping[str, str]) -> Relation | None:
    """Return how far a test generator is from training, whose generators and families are known.

    closed: training saw its fakes, if by another name. near: training saw its family. far: training
    saw other families only. None: it cannot be told, since the family of the generator, or of one
    of training, is not known. For a family "" the table's is taken.
    """
    if _names_in_training(generator, family_of_training):
        return "closed"
    tested = _plain(family or family_of(generator))
    families_of_training = with_families(family_of_training, family_of_training).values()
    trained = {_plain(family) for family in families_of_training}
    if tested and tested in trained:
        return "near"
    return "far" if tested and trained and "" not in trained else None


def served_by(real: str) -> frozenset[str]:
    """Return the generators whose fakes are compared with a real image; none stands for all."""
    return frozenset({real, *real.split(SEVERAL)}) if real else frozenset()


def home_of(test_set: str, generator: str, training_generators: Iterable[str]) -> str:
    """Return the test set of fakes: the given one, else closed if training knew the generator."""
    return test_set or ("closed" if _names_in_training(generator, training_generators) else "open")


def families_tested(
    fakes: Iterable[tuple[str, str, str]], training_generators: Collection[str]
) -> dict[tuple[str, str], str]:
    """Return (test set, generator) -> family, from what is given of each fake.

    fakes: The test set, generator and family of each fake.
    """
    of_sets = defaultdict[str, list[tuple[str, str]]](list)
    for test_set, generator, family in fakes:
        of_sets[home_of(test_set, generator, training_generators)].append((generator, family))
    return {
        (test_set, generator): family
        for test_set, pairs in of_sets.items()
        for generator, family in families(pairs).items()
    }


def relation_findings(
    tests: Mapping[tuple[str, str], str], family_of_training: Mapping[str, str]
) -> list[Finding]:
    """Return a finding for each reason why figures of "unknown" generators may mislead.

    tests: (test set, generator) -> family. family_of_training: generator -> family of training.
    """
    again: list[str] = []
    renamed: list[str] = []
    near: list[str] = []
    untold: list[str] = []
    families_of_training = with_families(family_of_training, family_of_training)
    unknown = {name for name, family in families_of_training.items() if not family}
    for (test_set, generator), named_family in sorted(tests.items()):
        family = named_family or family_of(generator)
        names = _names_in_training(generator, family_of_training)
        alias = "" if generator in names else f" (as {', '.join(map(shown, names))})"
        name = shown(generator)
        match test_set, relation(generator, family, family_of_training):
            case "open", "closed":
                again.append(name + alias)
            case "closed", "closed" if alias:
                renamed.append(name + alias)
            case "open", "near":
                near.append(f"{name} ({shown(family)})")
            case "open", None if family_of_training and _plain(generator) not in _NO_NAMES:
                untold.append(name)
                if not family:
                    unknown.add(generator)
    named = {"known_generator": again, "renamed_generator": renamed, "near_generator": near}
    findings = [finding(id, names="; ".join(names)) for id, names in named.items() if names]
    if untold:
        without_family = ", ".join(map(shown, sorted(unknown)))
        findings.append(
            finding("unknown_family", names="; ".join(untold), without_family=without_family)
        )
    return findings


def _names_in_training(generator: str, training_generators: Iterable[str]) -> list[str]:
    """Return the names under which training knew a generator."""
    return sorted(name for name in training_generators if canonical(name) == canonical(generator))
