"""Data sets of the Hugging Face Hub: what they take and may be used for, and their files."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from focus.data.manifest import Split
from focus.data.readers.tables import split_of
from focus.runtime.machine import is_main_process


def licence_of(path: Path) -> str:
    """Print what a data set of the Hub takes before it is fetched; return its card's licence.

    "" if the card names none, or cannot be reached: the data may be in the cache.
    """
    from huggingface_hub import HfApi  # takes as long to import as all readers

    name = "/".join(path.parts[:2])
    try:
        dataset = HfApi().dataset_info(name, files_metadata=True)
    except Exception as error:  # the Hub's own errors, and those of the connection
        licence, size = "", f"size and licence are not known ({type(error).__name__})"
    else:
        named = dataset.card_data.get("license") if dataset.card_data else None
        licence = ", ".join([named] if isinstance(named, str) else named or [])
        total = sum(file.size or 0 for file in dataset.siblings or ())
        size = f"{total / 1e6:,.0f} MB in all, licence: {licence or 'none is named'}"
    if is_main_process():
        print(f"hf://{path}: {size}", flush=True)
    return licence


def parquet_files(datasets: Any, path: Path) -> dict[Split, list[str]]:
    """Return the addresses of a data set's files by split, none if they are not all parquet."""
    builder = datasets.load_dataset_builder("/".join(path.parts[:2]), *path.parts[2:])
    files = defaultdict[Split, list[str]](list)
    for part, addresses in builder.config.data_files.items():
        files[split_of(str(part)) or ""] += map(str, addresses)
    are_parquet = all(name.endswith(".parquet") for names in files.values() for name in names)
    return files if are_parquet else {}
