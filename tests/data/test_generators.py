"""Names of generators, their families, and how far a test generator is from training."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus.data.demo.artefacts import FAMILIES as DEMO
from focus.data.families import FAMILIES
from focus.data.generators import (
    _PLACES,
    canonical,
    families,
    families_tested,
    family_of,
    relation,
    training_families,
    warnings,
    with_families,
)
from focus.data.manifest import Sample
from focus.model.detector import Detector

ALIASES = [
    alias
    for generators in FAMILIES.values()
    for generator, others in generators.items()
    for alias in (generator, *others.split())
]


def test_no_name_belongs_to_two_generators() -> None:
    assert len(_PLACES) == len(set(ALIASES)) == len(ALIASES)


def test_the_demo_s_generators_are_families_of_their_own() -> None:
    assert {name: family_of(name) for name in DEMO} == {name: name for name in DEMO}


# As the folders, columns and papers of public data sets write them.
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("ProGAN", "progan"),
        ("SG2", "stylegan"),
        ("StyleGAN2-ADA", "stylegan"),
        ("stylegan2-config-f", "stylegan"),
        ("stylegan3-r-ffhqu-1024x1024", "stylegan"),
        ("StyleGAN-XL", "stylegan"),
        ("StarGANv2", "stargan"),
        ("whichfaceisreal", "stylegan"),
        ("deepfake", "deepfakes"),
        ("Celeb-DF-v2", "deepfakes"),
        ("Face2Face", "face2face"),
        ("guided", "adm"),
        ("imagenet_ai_0508_adm", "adm"),
        ("imagenet_ai_0419_sdv4", "stable-diffusion"),
        ("stable_diffusion_v_1_5", "stable-diffusion"),
        ("stable-diffusion-xl-base-1.0", "stable-diffusion"),
        ("SD-2.1", "stable-diffusion"),
        ("sdxl-turbo", "stable-diffusion"),
        ("ldm_200_cfg", "stable-diffusion"),
        ("wukong", "stable-diffusion"),
        ("glide_100_27", "glide"),
        ("VQDM", "vqdm"),
        ("Midjourneyv5-5K", "midjourney"),
        ("midjourney-v6.1", "midjourney"),
        ("DALLE2", "dall-e"),
        ("OpenAI Dalle3", "dall-e"),
        ("DALL-E mini", "dall-e-mini"),
        ("flux.1-dev", "flux"),
        ("FLUX.1 Kontext", "flux"),
        ("Google Imagen3", "imagen"),
        ("Adobe Firefly v4", "firefly"),
        ("cyclegan", "cyclegan"),
        # Names that only look like one: no family is better than a wrong one.
        ("deepfakes of 2031", ""),
        ("guided tour", ""),
        ("sd", "stable-diffusion"),
        ("sd card", ""),
        ("uNear", "uNear"),
        ("uFar", ""),
        ("", ""),
    ],
)
def test_the_families_of_names_in_use(name: str, family: str) -> None:
    assert family_of(name) == family


@given(st.sampled_from(ALIASES), st.data())
def test_case_and_punctuation_change_nothing(alias: str, data: st.DataObject) -> None:
    between = data.draw(st.lists(st.sampled_from(["", "-", "_", " ", "."]), min_size=len(alias)))
    letters = (data.draw(st.sampled_from([c, c.upper()])) for c in alias)
    written = "".join(c + gap for c, gap in zip(letters, between, strict=False))
    assert canonical(written) == canonical(alias)
    assert family_of(written) == family_of(alias) != ""


@given(st.text())
def test_any_name_is_its_own(name: str) -> None:
    assert relation(name, "", {name: ""}) == "closed"
    assert isinstance(family_of(name), str)


@pytest.mark.parametrize(
    ("generator", "family", "known", "expected"),
    [
        ("StyleGAN2", "", {"StyleGAN2": "stylegan"}, "closed"),
        ("StyleGAN2", "", {"SG2": "stylegan"}, "closed"),  # another name of the same
        ("StyleGAN2-ADA", "", {"StyleGAN2": "stylegan"}, "near"),
        ("stylegan2_ffhq", "", {"stylegan2_celeba": ""}, "near"),  # other weights
        ("ProGAN", "", {"StyleGAN2": "stylegan"}, "far"),
        # A given family wins over the table, in both directions and on both sides.
        ("mine", "Style-GAN", {"StyleGAN2": ""}, "near"),
        ("mine", "ours", {"yours": "ours"}, "near"),
        ("StyleGAN3", "ours", {"StyleGAN2": ""}, "far"),
        ("StyleGAN3", "", {"StyleGAN2": "ours"}, "far"),
        # The same name is closed whatever the family.
        ("StyleGAN2", "ours", {"StyleGAN2": "yours"}, "closed"),
        # Nobody can tell.
        ("StyleGAN3", "", {"synthetic": ""}, None),
        ("", "", {"StyleGAN2": "stylegan"}, None),
        ("StyleGAN3", "", {}, None),
        # A family that is not known may be any, on either side.
        ("mine", "", {"StyleGAN2": "stylegan"}, None),
        ("ProGAN", "", {"StyleGAN2": "stylegan", "yours": ""}, None),
        ("mine", "", {"yours": ""}, None),
        ("ProGAN", "", {"synthetic": "stylegan"}, "far"),
        ("mine", "ours", {"yours": "theirs"}, "far"),
        # Among the named ones it can still be near.
        ("StyleGAN3", "", {"synthetic": "", "SG2": ""}, "near"),
        ("synthetic", "", {"synthetic": ""}, "closed"),
    ],
)
def test_relations(
    generator: str, family: str, known: dict[str, str], expected: str | None
) -> None:
    assert relation(generator, family, known) == expected


def test_a_generators_family_is_the_one_given_most_often() -> None:
    fakes = [("SG2", "a"), ("SG2", ""), ("SG2", ""), ("SG2", "b"), ("SG2", "b"), ("x", "")]
    assert families(fakes) == {"SG2": "b", "x": ""}
    assert families([("g", "a"), ("g", "a"), ("g", "b")]) == {"g": "a"}
    assert families([("SG2", ""), ("own", "")]) == {"SG2": "stylegan", "own": ""}
    samples = [
        Sample("/r", 0, "real's own", "f"),
        Sample("/f", 1, "SG2"),
        Sample("/g", 1, "g", "h"),
    ]
    assert training_families(samples) == {"SG2": "stylegan", "g": "h"}
    assert with_families(["SG2", "g", "x"], {"g": "h", "x": ""}) == {
        "SG2": "stylegan",
        "g": "h",
        "x": "",
    }


def test_fakes_find_their_test_set() -> None:
    fakes = [
        ("", "StyleGAN2", ""),
        ("", "StyleGAN3", ""),
        ("open", "StyleGAN2", "x"),
        ("", "mine", "x"),
        ("", "mine", "y"),
        ("", "mine", "y"),
    ]
    assert families_tested(fakes, ["SG2"]) == {
        ("closed", "StyleGAN2"): "stylegan",
        ("open", "StyleGAN3"): "stylegan",
        ("open", "StyleGAN2"): "x",
        ("open", "mine"): "y",
    }


def test_warnings_name_what_training_knew() -> None:
    tests = {
        ("closed", "StyleGAN2"): "stylegan",
        ("closed", "mine"): "",
        ("open", "mine"): "",
        ("open", "sg2"): "",
        ("open", "StyleGAN3"): "stylegan",
        ("open", "ProGAN"): "",
        ("open", "yours"): "theirs",
        ("open", "new"): "",
        ("open", "fake"): "",
    }
    known = {"SG2": "stylegan", "mine": "ours"}
    assert warnings(tests, known) == [
        "Tested as unknown, though training knew it: mine; sg2 (as SG2).",
        "Tested as known, since training knew it by another name: StyleGAN2 (as SG2).",
        "Tested as unknown, though training knew its family: StyleGAN3 (stylegan).",
        "Not known to be near or far: new; no family is known of new: name generators and families "
        "in the data.",
    ]
    # A family of training that is not known may be that of each.
    assert warnings(tests, known | {"mine": ""})[-1] == (
        "Not known to be near or far: ProGAN; new; yours; no family is known of mine, new: name "
        "generators and families in the data."
    )
    assert warnings({("closed", "SG2"): "", ("open", "ProGAN"): ""}, {"SG2": ""}) == []
    (line,) = warnings({("open", "ProGAN"): ""}, {"synthetic": ""})
    assert "near or far: ProGAN; no family is known of synthetic: name generators and" in line
    (line,) = warnings({("open", "sg-2"): ""}, {"stylegan2": "", "SG2": ""})
    assert line == "Tested as unknown, though training knew it: sg-2 (as SG2, stylegan2)."
    assert warnings({("open", "ProGAN"): ""}, {}) == []
    assert warnings({("open", ""): ""}, {"SG2": ""}) == []
    # A name cannot forge a line, or speak to the terminal.
    odd = "a\nb\x1b[2J"
    known_as_odd = warnings(
        {("open", odd): "", ("open", "A\nB"): "", ("open", "c"): odd}, {odd: odd}
    )
    assert known_as_odd == [
        r"Tested as unknown, though training knew it: 'a\nb\x1b[2J'.",
        r"Tested as unknown, though training knew its family: c ('a\nb\x1b[2J').",
        r"Not known to be near or far: 'A\nB'; no family is known of 'A\nB': name generators and "
        "families in the data.",
    ]


def test_a_saved_model_keeps_its_generators_and_their_families(tmp_path: Path) -> None:
    detector = Detector(training_generators=("flux.1-dev", "a b", "x"))
    given = {"flux.1-dev": "flux", "a b": "own, of 1.5", "x": ""}
    detector.config = type(detector.config)(**{**vars(detector.config), "training_families": given})
    detector.save_pretrained(tmp_path / "m")
    assert Detector.from_pretrained(tmp_path / "m").config.training_families == given
    # A model that was saved before there were families.
    path = tmp_path / "m" / "config.json"
    values = json.loads(path.read_text())
    del values["training_families"]
    path.write_text(json.dumps(values))
    assert Detector.from_pretrained(tmp_path / "m").config.training_families == {}
