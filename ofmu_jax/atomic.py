"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
import tempfile


def write_atomic(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: to a sibling, to disk, then renamed over."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
