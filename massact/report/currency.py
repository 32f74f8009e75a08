"""In which of several settings a report answers a place: the newest that agrees with the file, else the newest."""

from massact.config import Experiment
from massact.errors import UsageError
from massact.query.selection import Stratum
from massact.schema import EvaluationRow


def currency(experiment: Experiment, stratum: Stratum) -> tuple[bool, int, str]:
    """A sort key: greatest for the setting that a place is answered in."""
    last = max((part.last for part in stratum.slices.values()), default=-1)
    return (_agrees(experiment, stratum.sample), last, stratum.setting or "")


def _agrees(experiment: Experiment, row: EvaluationRow | None) -> bool:
    """Whether a row was evaluated as the file says, as far as the file alone can tell."""
    if row is None:
        return False
    try:
        direction = experiment.trait(row.trait).direction
    except UsageError:
        return False
    wanted = experiment.generation
    return (row.judge, row.subset, row.max_new_tokens, row.temperature, row.direction) == (
        experiment.judge.name,
        experiment.subset,
        wanted.max_new_tokens,
        wanted.temperature,
        direction,
    )
