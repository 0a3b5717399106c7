"""Writes data sets as their authors lay them out, from a plain description of each.

It knows nothing of the package whose readers it tests: every file, PNGs included, is put together
here. A description maps a file's path to what is in it: "face 7" is a small PNG of the grey value
7, bytes are themselves, any other text is a text file, and a path that ends with "->" is a symbolic
link to what it says.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tree = Mapping[str, str | bytes]


def png(width: int, height: int, rows: bytes) -> bytes:
    """An RGB PNG, written by hand; its header need not tell the truth."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def face(grey: int) -> bytes:
    """A PNG of 3×2 grey pixels."""
    return png(3, 2, 2 * (b"\0" + 9 * bytes([grey])))


TREES: dict[str, Tree] = {
    "cyborg": {
        "csvs/original.csv": (
            "train,Real,/real/10.png\r\n"
            "train,Real,/real/9.png\r\n"
            "train,Synthetic,/SG2/seed0001.png,StyleGAN2\r\n"
            "test,Real,/real/11.png\r\n"
            "test,Synthetic,/SG2/seed0002.png\r\n"
        ),
        "Data/real/9.png": "face 9",
        "Data/real/10.png": "face 10",
        "Data/real/11.png": "face 11",
        "Data/SG2/seed0001.png": "face 101",
        "Data/SG2/seed0002.png": "face 102",
        "Data/heatmaps/9.png": "face 200",
        "Data/heatmaps/seed0001.png": "face 201",
        "Data/README.md": "Please cite us.",
    },
    # CNNDetection's test set: a class called train, a generator without classes.
    "0_real-1_fake": {
        "progan/airplane/0_real/00009.png": "face 1",
        "progan/airplane/0_real/00010.png": "face 2",
        "progan/airplane/1_fake/00009.png": "face 3",
        "progan/train/0_real/00009.png": "face 4",
        "progan/train/1_fake/00009.PNG": "face 5",
        "StyleGAN2/0_Real/2.Jpg": "face 6",
        "StyleGAN2/0_Real/10.jpg": "face 7",
        "StyleGAN2/1_Fake/part1/a.jpeg": "face 8",
        "StyleGAN2/1_Fake/README.md": "Seeds 0 to 999.",
        "StyleGAN2/1_Fake/.hidden.png": "face 9",
        "StyleGAN2/1_Fake/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "StyleGAN2/.git/0_real/object.png": "face 9",
        "__MACOSX/StyleGAN2/0_Real/._2.jpg": b"\0\5\x16\7",
        "__MACOSX/StyleGAN2/0_Real/2.jpg": b"\0\5\x16\7",
        "README.txt": "The test set.",
        "overview.png": "face 9",
    },
    # GenImage
    "nature-ai": {
        "imagenet_ai_0419_sdv4/train/ai/000_sdv4_2.png": "face 1",
        "imagenet_ai_0419_sdv4/train/ai/000_sdv4_10.png": "face 2",
        "imagenet_ai_0419_sdv4/train/nature/n01440764_18.JPEG": "face 3",
        "imagenet_ai_0419_sdv4/val/ai/001_sdv4_1.png": "face 4",
        "imagenet_ai_0419_sdv4/val/nature/ILSVRC2012_val_00000293.JPEG": "face 5",
        "imagenet_midjourney/val/ai/1_midjourney_21.png": "face 6",
        "imagenet_midjourney/val/nature/ILSVRC2012_val_00000294.JPEG": "face 7",
        "__MACOSX/imagenet_midjourney/val/ai/._x.png": b"\0\5\x16\7",
    },
    "real-fake": {
        "StyleGAN3/Real/1.png": "face 1",
        "StyleGAN3/Fake/1.png": "face 2",
        "StyleGAN3/Fake/2.webp": "face 3",
        "DDPM/faces/real/1.png": "face 4",
        "DDPM/faces/fake/1.png": "face 5",
        "DDPM/faces/fake/how it was made.md": "With patience.",
    },
    "csv-grip": {
        "list.csv": (
            "filename,typ\n"
            "synthbuster/dalle2/r05839451t.png,dalle2\n"
            "real_RAISE_1k/r000da54ft.png,real\n"
            "synthbuster/firefly/r1.png,firefly\n"
        ),
        "synthbuster/dalle2/r05839451t.png": "face 1",
        "synthbuster/firefly/r1.png": "face 2",
        "real_RAISE_1k/r000da54ft.png": "face 3",
    },
    "csv-full": {
        "faces.csv": (
            b"\xef\xbb\xbf"  # a byte order mark
            b'"Image","Target","Model","Split","Identity","Heatmap","Box","camera"\r\n'
            b'"a, b.png","Fake","SG2","train","id 1","maps/a.png","[12, 20, 21.5, 22]","phone"\r\n'
            b"\r\n"
            b'"say ""hi"".png","REAL","FFHQ","val","id 2","","",""\r\n'
            b"   \r\n"
            b'"sub/caf\xc3\xa9.png","nature","SG2","Test","id 3","","","scanner"\r\n'
            b",,,,,,,\r\n"
            b'"sub/../c.png"," 1 ","","test","","","",""\r\n'
        ),
        "a, b.png": "face 1",
        'say "hi".png': "face 2",
        "sub/café.png": "face 3",
        "c.png": "face 4",
        "maps/a.png": "face 200",
        "heatmaps/c.png": "face 201",
    },
    "plain": {
        "10.png": "face 1",
        "9.png": "face 2",
        "album/1.tif": "face 3",
        "album/notes.txt": "Summer.",
        "loop ->": ".",
        "album/again ->": "../album",
        "gone.png ->": "nowhere.png",
        "new\nline.png": "face 4",
        os.fsdecode(b"latin1-\xe9.png"): "face 5",
    },
}


def write(tree: Tree, folder: Path) -> Path:
    """Write a tree into a folder; the folder."""
    for name, content in tree.items():
        path = folder / name.removesuffix(" ->")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(" ->"):
            path.symlink_to(str(content))
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("face "):
            path.write_bytes(face(int(content.removeprefix("face "))))
        else:
            path.write_bytes(content.encode())
    return folder


def pictures(*greys: int) -> list[dict[str, Any]]:
    """Cells of a column of images, one for each grey value."""
    return [{"bytes": face(grey), "path": None} for grey in greys]


def arrow_table(columns: Mapping[str, list[Any]], features: Mapping[str, Any] | None = None) -> Any:
    """A table of Arrow; features: what the library datasets notes in it of its columns."""
    import pyarrow

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {
            name: pyarrow.array(cells, image if isinstance(cells[0], dict) else None)
            for name, cells in columns.items()
        }
    )
    if features is None:
        return table
    note = json.dumps({"info": {"features": dict(features)}})
    return table.replace_schema_metadata({"huggingface": note})


def write_parquet(path: Path, table: Any) -> Path:
    """Write a table as a parquet file; the path."""
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def write_saved(folder: Path, table: Any, features: Mapping[str, Any]) -> Path:
    """Write a table as the library datasets saves one to disk, fetching nothing; the folder."""
    import pyarrow

    folder.mkdir(parents=True)
    with pyarrow.ipc.new_stream(folder / "data-0.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "dataset_info.json").write_text(json.dumps({"features": dict(features)}))
    names = ("fingerprint", "format_columns", "format_type", "output_all_columns", "split")
    state = {f"_{name}": None for name in names} | {"_format_kwargs": {}}
    state["_data_files"] = [{"filename": "data-0.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    return folder
