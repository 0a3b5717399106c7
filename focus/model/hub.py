"""The folder of a saved detector on the Hugging Face Hub: fetch it, upload it."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from focus.errors import InputError, first_line
from focus.model.card import CARD
from focus.model.config import CONFIG_FILE, WEIGHTS_FILE
from focus.model.operating_points import THRESHOLDS

_FILES = [CONFIG_FILE, WEIGHTS_FILE, THRESHOLDS, CARD]


def fetch_folder(name: str | Path, **options: Any) -> Path:
    """Return the folder of that name, else that of the cache to which USER/NAME is downloaded.

    Only the four files of a detector are downloaded, all of one commit. options: of
    :func:`huggingface_hub.snapshot_download`.

    Raises:
        InputError: there is no such folder, and the Hub does not give the model.
    """
    if (folder := Path(name)).exists():
        return folder
    try:
        return Path(snapshot_download(str(name), allow_patterns=_FILES, **options))
    except Exception as error:  # the Hub's own errors, those of the connection and of the disk
        raise InputError(
            f"There is no folder {name}, and the Hub gave no model of that name "
            f"({first_line(error)}): check the name and the connection."
        ) from error


def upload_folder(
    folder: Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Upload the files of a detector to USER/NAME on the Hub, and return the commit's address."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    # Thresholds of an earlier detector do not stay beside weights that have none.
    options |= {"folder_path": folder, "delete_patterns": THRESHOLDS}
    return str(api.upload_folder(repo_id=repo_id, **options).commit_url)
