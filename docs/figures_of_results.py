"""A mkdocs hook: figures that pages show from among the results are part of the site."""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File

_ROOT = pathlib.Path(__file__).parent.parent
_FIGURE = re.compile(r"\]\(\.\./((?:benchmarks|experiments)/[\w./-]+\.png)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds each figure that a page refers to."""
    found = (_FIGURE.findall(page.content_string) for page in files.documentation_pages())
    for path in sorted({path for paths in found for path in paths if (_ROOT / path).is_file()}):
        files.append(File.generated(config, path, abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Refers to them where they lie in the site."""
    return _FIGURE.sub(r"](\1)", markdown)
