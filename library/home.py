"""Where bq keeps what is its own on this computer."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of what bq keeps on this computer: `BQ_HOME`, else the system's place for such data."""
    import platformdirs

    return Path(os.environ.get("BQ_HOME") or platformdirs.user_data_dir("bq", appauthor=False))


def models_folder() -> Path:
    """Where the models lie that bq pulls and makes for itself. Those of other places stay where they are."""
    return home() / "models"
