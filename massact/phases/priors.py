"""What a search of this experiment starts from before it has tried anything."""

from massact.errors import DataError
from massact.phases.session import Session
from massact.prediction.adopted import parse_prior
from massact.prediction.prior import Prior, RelativeStrengthPrior
from massact.tracking.registry import ALIAS, prior_name, read_prior


def stored_prior(session: Session) -> Prior:
    """The prior that `massact predict` registered for the experiment, else relative strength as massact comes with it.

    The store must be there; nothing is written to it. A prior that was adopted at another coherence floor is
    left aside: its cliffs are other cliffs. A regression among its parts reads all of `VectorFacts`, those of the
    activations included; where these are `None` it takes their means.

    Raises:
        StoreError: the registry cannot be read.
        DataError: what is registered is not a prior of ours.
    """
    experiment = session.experiment
    name = prior_name(experiment.name)
    found = read_prior(session.tracking_uri, name)
    if found is None:
        return RelativeStrengthPrior(
            source="relative strength as massact comes with it; massact predict tests it"
        )
    try:
        prior = parse_prior(found.text, f"{name} version {found.version} of the model registry")
    except DataError as error:
        raise DataError(
            f"the registered model {name}, version {found.version}: {error}. Run massact predict again, or take "
            f"the alias {ALIAS!r} off it"
        ) from error
    if prior.floor != experiment.coherence_floor:
        return RelativeStrengthPrior(
            source=f"relative strength as massact comes with it, since {name} version {found.version} is for a "
            f"coherence floor of {prior.floor:g}"
        )
    return prior
