"""Names of generators, their families, and how far a test generator is from training."""

from focus.data.demo.benchmark import NAMES as DEMO
from focus.data.manifest import Manifest, Sample
from focus.data.near_far import (
    FAMILIES,
    canonical,
    families,
    families_tested,
    family_of,
    relation,
    relation_findings,
    training_families,
    with_families,
)

# As the folders, columns and papers of public data sets write them.
IN_USE = {
    "progan": "ProGAN",
    "stylegan": "SG2, StyleGAN2-ADA, stylegan2-config-f, stylegan3-r-ffhqu-1024x1024, "
    "StyleGAN-XL, whichfaceisreal",
    "stargan": "StarGANv2",
    "deepfakes": "deepfake, Celeb-DF-v2",
    "adm": "guided, imagenet_ai_0508_adm",
    "stable-diffusion": "imagenet_ai_0419_sdv4, stable_diffusion_v_1_5, SD-2.1, sdxl-turbo, sd, "
    "stable-diffusion-xl-base-1.0, ldm_200_cfg, wukong",
    "glide": "glide_100_27",
    "midjourney": "Midjourneyv5-5K, midjourney-v6.1",
    "dall-e": "DALLE2, OpenAI Dalle3",
    "dall-e-mini": "DALL-E mini",
    "flux": "flux.1-dev, FLUX.1 Kontext",
    "imagen": "Google Imagen3",
    # Names that only look like one: no family is better than a wrong one.
    "": "deepfakes of 2031, guided tour, sd card, uFar",
}


def test_the_families_of_names_in_use() -> None:
    for family, names in IN_USE.items():
        assert {name: family_of(name) for name in names.split(", ")} == dict.fromkeys(
            names.split(", "), family
        )
    assert {name: family_of(name) for name in DEMO} == {name: name for name in DEMO}


def test_no_name_belongs_to_two_generators() -> None:
    tables = FAMILIES.values()
    names = [f"{name} {more}".split() for table in tables for name, more in table.items()]
    aliases = [alias for generator_aliases in names for alias in generator_aliases]
    assert len({canonical(alias) + family_of(alias) for alias in aliases}) == len(names)
    plain = ["".join(filter(str.isalnum, alias.casefold())) for alias in aliases]
    assert len(set(plain)) == len(plain)
    assert all(family_of(f"-{a.upper()}. ") == family_of(a) != "" for a in aliases)


def test_relations() -> None:
    for generator, family, known_families, expected in (
        ("StyleGAN2", "", {"SG2": "stylegan"}, "closed"),  # another name of the same
        ("StyleGAN2-ADA", "", {"StyleGAN2": "stylegan"}, "near"),
        ("stylegan2_ffhq", "", {"stylegan2_celeba": ""}, "near"),  # other weights
        ("ProGAN", "", {"StyleGAN2": "stylegan"}, "far"),
        # A given family wins over the table, in both directions and on both sides.
        ("mine", "Style-GAN", {"StyleGAN2": ""}, "near"),
        ("StyleGAN3", "ours", {"StyleGAN2": ""}, "far"),
        ("StyleGAN2", "ours", {"StyleGAN2": "yours"}, "closed"),
        # A family that is not known may be any, on either side.
        ("StyleGAN3", "", {"synthetic": ""}, None),
        ("", "", {"StyleGAN2": "stylegan"}, None),
        ("StyleGAN3", "", {}, None),
        ("ProGAN", "", {"StyleGAN2": "stylegan", "yours": ""}, None),
        # Among the named ones it can still be near.
        ("StyleGAN3", "", {"synthetic": "", "SG2": ""}, "near"),
    ):
        assert relation(generator, family, known_families) == expected, (
            generator,
            family,
            known_families,
        )


def test_a_generators_family_is_the_one_given_most_often() -> None:
    fakes = [("SG2", "a"), ("SG2", ""), ("SG2", ""), ("SG2", "b"), ("SG2", "b"), ("x", "")]
    assert families(fakes) == {"SG2": "b", "x": ""}
    samples = [Sample("/r", 0, "its own", "f"), Sample("/f", 1, "SG2"), Sample("/g", 1, "g", "h")]
    assert training_families(Manifest(samples)) == {"SG2": "stylegan", "g": "h"}
    family_by_generator = with_families(["SG2", "g", "x"], {"g": "h", "x": ""})
    assert family_by_generator == {"SG2": "stylegan", "g": "h", "x": ""}


def test_fakes_find_their_test_set() -> None:
    fakes = [("", "StyleGAN2", ""), ("", "StyleGAN3", ""), ("open", "StyleGAN2", "x")]
    fakes += [("", "mine", "x"), ("", "mine", "y"), ("", "mine", "y")]
    assert families_tested(fakes, ["SG2"]) == {
        ("closed", "StyleGAN2"): "stylegan",
        ("open", "StyleGAN3"): "stylegan",
        ("open", "StyleGAN2"): "x",
        ("open", "mine"): "y",
    }


def test_findings_name_what_training_knew() -> None:
    tests = {
        ("closed", "StyleGAN2"): "stylegan",
        ("closed", "mine"): "",
        ("open", "mine"): "",
        ("open", "sg2"): "",
        ("open", "StyleGAN3"): "stylegan",
        ("open", "ProGAN"): "",
        ("open", "new"): "",
        ("open", "fake"): "",
    }
    known_families = {"SG2": "stylegan", "mine": "ours"}
    assert [*map(str, relation_findings(tests, known_families))] == [
        "warning: Tested as unknown, though training knew it: mine; sg2 (as SG2).",
        "note: Tested as known, since training knew it by another name: StyleGAN2 (as SG2).",
        "note: Tested as unknown, though training knew its family: StyleGAN3 (stylegan).",
        "note: Not known to be near or far: new; no family is known of new: name generators and "
        "families in the data.",
    ]
    # A family of training that is not known may be that of each.
    last = relation_findings(tests, known_families | {"mine": ""})[-1]
    assert last.text.startswith(
        "Not known to be near or far: ProGAN; new; no family is known of mine"
    )
    # A name cannot forge a line, or speak to the terminal.
    (finding,) = relation_findings({("open", "a\nb"): ""}, {"a\nb": ""})
    assert finding.text == r"Tested as unknown, though training knew it: 'a\nb'."
