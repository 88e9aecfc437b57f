"""One way that a stage computes tables, keeps them with a record, and reads them back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mastlens.runs.files import write_json, write_table
from mastlens.runs.reading import read_table
from mastlens.runs.settings import Writing
from mastlens.runs.stages import remembered

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")


@dataclass(frozen=True)
class Kept(Generic[R]):
    """What a stage leaves in its folder.

    Attributes:
        result: Makes the result of its tables, by name, and ``settings``.
        tables: Name of a table, as the result has it, to its file.
        summary: A JSON file beside them, and what makes its contents; None for none.
        partial: The file that keeps what is finished so far (a ``Ledger``), until all is there; None for none.
    """

    result: Callable[..., R]
    tables: Mapping[str, str]
    summary: tuple[str, Callable[[R], Mapping[str, Any]]] | None = None
    partial: str | None = None

    @property
    def files(self) -> list[str]:
        """All files."""
        return [*self.tables.values(), *([] if self.summary is None else [self.summary[0]])]

    def write(self, result: R, folder: Path) -> None:
        """Write the tables of a result and its summary."""
        for name, file in self.tables.items():
            write_table(folder / file, getattr(result, name))
        if self.summary is not None:
            file, contents = self.summary
            write_json(folder / file, contents(result))

    def read(self, folder: Path, settings: Mapping[str, Any]) -> R:
        """Return the result that ``folder`` holds."""
        tables = {name: read_table(folder / file) for name, file in self.tables.items()}
        return self.result(**tables, settings=dict(settings))


def remembered_tables(
    name: str,
    kept: Kept[R],
    command: Writing,
    *,
    settings: Mapping[str, Any],
    lineage: Mapping[str, str] | None = None,
    behaviour: Mapping[str, Mapping[str, str]] | None = None,
    inputs: Mapping[str, Any] | None = None,
    compute: Callable[[], R],
) -> R:
    """Compute a result that consists of tables, or read it back where the output folder already holds it.

    Args:
        name: The stage.
        kept: What it leaves in the folder.
        command: What was asked for: the folder, the device, whether to overwrite.
        settings: Everything that decides the result.
        lineage: Role to fingerprint of each checkpoint.
        behaviour: Role to what else decides how each checkpoint that is run behaves.
        inputs: Hashes of everything else that is read.
        compute: Computes the result.
    """
    return remembered(
        command.out,
        name,
        outputs=kept.files,
        lineage=lineage,
        behaviour=behaviour,
        inputs=inputs,
        settings=settings,
        command=command,
        device=command.device,
        overwrite=command.overwrite,
        partial=kept.partial,
        compute=compute,
        write=kept.write,
        read=lambda folder: kept.read(folder, settings),
    )


def json_rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a table as JSON has them: what was not measured, NaN in the table, is null there."""
    return [
        {str(key): value for key, value in row.items()}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]
