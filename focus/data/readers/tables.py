"""CSVs whose first line names the columns: ``filename,typ``, ``path,target`` and the like."""

from collections.abc import Iterator
from functools import partial

from focus.data.manifest import Manifest, Sample, csv_rows, open_csv, place_inside
from focus.data.readers.columns import Columns, reals_by_generator
from focus.data.readers.files import Request, find_maps, from_rows, with_maps
from focus.errors import InputError


def read(request: Request) -> tuple[Columns, Manifest]:
    """The columns, and the manifest; raises InputError with the line number.

    Human maps are those of the column, else found by the images' names as in the CYBORG layout.
    """
    with open_csv(request.path) as file:
        rows = csv_rows(file, request.path)
        line, header = next(rows, (1, []))
        try:
            columns = Columns.find(header, request.columns)
        except ValueError as error:
            raise InputError(f"{request.path}, line {line}: {error}.") from error
        samples = reals_by_generator(_samples(request, columns, rows))
        manifest = from_rows(samples, request.path)
    if not manifest:
        raise InputError(f"{request.path} has no rows: give a CSV with at least one image.")
    folder, required = find_maps(request.heatmaps, request.path.parent, request.root)
    if folder and (required or "map_path" not in columns.at):
        manifest = with_maps(manifest, request.root, folder, required=required)
    return columns, manifest


def _samples(
    request: Request, columns: Columns, rows: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, Sample]]:
    place = partial(place_inside, root=str(request.root), outside=request.outside)
    for line, row in rows:
        try:
            yield line, columns.sample(row, place)
        except ValueError as error:
            raise InputError(f"{request.path}, line {line}: {error}; fix the row.") from error
    columns.refuse_contradictions(request.path)
