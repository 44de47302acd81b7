"""Figure of scored variants: the log-likelihood ratios of each group of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from genome_lm.dataset.consequences import SEVERITY
from genome_lm.drawing import BASELINE, INK, MODEL, new_figure
from genome_lm.errors import GenomeLMError
from genome_lm.files import replacing_file, require_suffix
from genome_lm.report.mutagenesis import FORMATS

_COLUMNS = ("ref", "alt", "llr", "consequence")
_NOT_TOLD = "no consequence told"
_KINDS = ("substitution", "insertion", "deletion", "symbolic or breakend")


def draw_scored(path: Path, table: Path) -> None:
    """Draw the log-likelihood ratios of a table of scored alleles, a line per group.

    Groups are the consequences, the most severe on top, where the table has them. Else they are the kinds of alleles.

    Args:
        path: .svg, .png or .pdf.
        table: .tsv or .parquet, as `genome_lm.jobs.score_variants` writes it.

    Raises:
        GenomeLMError: If the table can't be read, or the figure can't be written.
    """
    require_suffix(path, FORMATS)
    frame = _read(table)
    total, frame = len(frame), frame[frame["llr"].notna()]
    has_consequences = "consequence" in frame
    names = frame["consequence"].fillna("").replace("", _NOT_TOLD) if has_consequences else _kinds(frame)
    order = (*SEVERITY, _NOT_TOLD) if has_consequences else _KINDS
    values = {name: frame.loc[names == name, "llr"].to_numpy() for name in order}
    values = {name: of_group for name, of_group in values.items() if len(of_group)}
    figure, axes = new_figure(7.2, 1.1 + 0.26 * max(1, len(values)))
    for place, of_group in enumerate(values.values()):
        low, first, middle, third, high = np.quantile(of_group, (0.05, 0.25, 0.5, 0.75, 0.95))
        axes.plot((low, high), (place, place), color=BASELINE, linewidth=1.5, zorder=1)
        axes.plot((first, third), (place, place), color=MODEL, linewidth=6, zorder=2, solid_capstyle="butt")
        axes.plot(middle, place, "|", color="white", markersize=7, zorder=3)
    axes.axvline(0, color=INK, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(values)), [f"{name} ({len(each):,})" for name, each in values.items()])
    axes.set_ylim(max(1, len(values)) - 0.5, -0.5)
    axes.set_xlabel("log-likelihood ratio (nats): median, middle half, and 5–95 % of each group", fontsize=8)
    axes.set_title(f"{len(frame):,} of {total:,} alleles scored", fontsize=9, loc="left")
    with replacing_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _read(table: Path) -> pd.DataFrame:
    """The columns that are drawn."""
    try:
        if table.suffix == ".parquet":
            names = [name for name in pq.read_schema(table).names if name in _COLUMNS]
            frame = pd.read_parquet(table, columns=names)
        else:
            frame = pd.read_csv(
                table,
                sep="\t",
                usecols=lambda name: name in _COLUMNS,
                keep_default_na=False,  # an allele may be NA
                na_values={"llr": [""]},
            )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise GenomeLMError(f"{table}: not a table of scored variants: {error}") from error
    # That of no records has no columns of scores.
    return frame if "llr" in frame else frame.assign(llr=np.nan)


def _kinds(frame: pd.DataFrame) -> pd.Series:
    """What each allele does: one of `_KINDS`."""
    longer = frame["alt"].str.len() - frame["ref"].str.len()
    bases = frame["alt"].str.fullmatch("[A-Za-z]+")
    kinds = np.select([~bases, longer > 0, longer < 0], [_KINDS[3], _KINDS[1], _KINDS[2]], _KINDS[0])
    return pd.Series(kinds, frame.index)
