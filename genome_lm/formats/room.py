"""Whether a disk has room, asked before libraries write that end the process where there is none."""

import errno
import os
import shutil
from pathlib import Path


def require_room(path: Path, size: int) -> None:
    """Raise the `OSError` of a full disk if there are not `size` bytes for a file."""
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
