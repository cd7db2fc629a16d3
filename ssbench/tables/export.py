"""Tables as files, one a table: what `results/tables` holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ssbench.files import write_text
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Format
from ssbench.tables.spec import PaperTable

ENDINGS: dict[Format, str] = {"rich": "txt", "md": "md", "csv": "csv", "latex": "tex", "html": "html"}


def file_name(table: str, how: Format = "md") -> str:
    """mpmc/table3 -> mpmc-table3.md."""
    return f"{table.replace('/', '-')}.{ENDINGS[how]}"


def write_tables(
    names: Iterable[str], store: ResultStore, folder: Path, how: Format = "md"
) -> Iterator[tuple[Path, bool]]:
    """Write each table into `folder`; (path, whether its file was new or has changed), one by one.

    The same store gives the same bytes on every machine: runs at work are left out, and a file that holds what it
    should is not touched.
    """
    for name in names:
        table = PaperTable.read(name)
        path, text = folder / file_name(table.name, how), table.fill(store).render(how)
        fresh = not path.is_file() or path.read_bytes() != text.encode()
        if fresh:
            write_text(path, text)
        yield path, fresh
