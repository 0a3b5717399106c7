"""The files of a manifest are there once each, however often it names them."""

from focus.data.manifest import Manifest, Sample
from focus.data.named_files import FILE_COLUMNS, named_files


def test_files_are_numbered_in_the_order_in_which_they_are_named() -> None:
    """An image that is there for two purposes, a map of several, and one file for two roles."""
    samples = [
        Sample("/b/2.png", human_map="/m/1.png"),
        Sample("/a/1.png", group="first"),
        Sample("/a/3.png", human_map="/m/1.png", mask_path="/m/1.png"),
        Sample("/a/1.png", group="second", mask_path="/a/1.png"),
        Sample("/m/1.png", human_map="/m/2.png"),
    ]
    for manifest in (Manifest(samples), Manifest(samples)[::-1], Manifest(samples)[:0]):
        files, numbers = named_files(manifest)
        number_of: dict[tuple[str, str], int] = {}
        for row, sample in enumerate(manifest):
            for role, column in FILE_COLUMNS.items():
                path = getattr(sample, column)
                number = number_of.setdefault((path, role), len(number_of)) if path else -1
                assert numbers[role][row] == number
        assert [files[number] for number in range(len(files))] == [*number_of]
        roles = [role for _, role in number_of]
        assert files.counts() == {role: roles.count(role) for role in dict.fromkeys(roles)}
