"""Digests by key: those that were written last and whole are read."""

from pathlib import Path

import numpy as np

from focus.runtime.digests import DigestList, key_of

KEYS = [key_of(b"%d" % number) for number in range(40)]


def test_digests_of_some_keys_are_those_of_all(tmp_path: Path) -> None:
    """Where lines are torn, damaged or there twice, and keys are not there or of no file."""
    digests = DigestList(tmp_path / "d.txt")
    assert digests.find(np.array(KEYS, "S32")).tolist() == [b""] * len(KEYS)
    digests.append([(key, key_of(key.encode())) for key in KEYS[:30]])
    digests.append([(KEYS[3], "1" * 32), (KEYS[4], "2" * 32), (KEYS[3], "3" * 32)])
    lines = digests.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:-9]  # torn
    lines[2] = lines[2][:1].swapcase() + b"\xff" + lines[2][2:]
    lines[6] += b"0"
    digests.path.write_bytes(b"\n".join([*lines, b"\r", b"\0", lines[7][:40]]))

    expected = digests.read()
    assert len(expected) == 27
    assert expected[KEYS[3]] == "3" * 32
    asked = np.array([*reversed(KEYS), "", ""], "S32")
    answers = [digest.decode() for digest in digests.find(asked).tolist()]
    assert answers == [*(expected.get(key, "") for key in reversed(KEYS)), "", ""]
    assert not len(digests.find(asked[:0]))
