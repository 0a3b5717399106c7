"""The names that data sets give to generators, and the families these belong to.

family: {generator: its other names}. A name is looked up without case, spaces and punctuation (see
:mod:`focus.data.near_far`), so aliases are written in small letters and digits, and one that
differs in nothing else is not listed.

A family is a line of development, whose generators share an architecture or code and so, likely,
what gives them away. What the field tests as different methods stays apart (the manipulations of
FaceForensics++, ADM and GLIDE). A generator without relatives has an entry too: of one whose family
is not known nobody can say that it is far from others.
"""

from collections.abc import Mapping

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
