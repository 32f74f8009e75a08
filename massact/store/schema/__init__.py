"""What the run store holds, in names and typed round trips: the one part that both sides share.

`massact.store.write` writes what is named here, `massact.store.read` reads it. MLflow gives every param back
as a string and cannot filter params by range, so an evaluation is kept several times over: as params
and metrics for people, per question as stepped metrics, whole as one compact JSON row in a tag
(`rows`), its scores in another (`scores`), and the little that questions rank by in a third (`points`)."""

from massact.store.schema.cells import stored_cell
from massact.store.schema.declared import Declared, DeclaredPhase, DeclaredSetting, encode_declared
from massact.store.schema.names import TAG_LIMIT, Artifact, JudgeMetric, Kind, MlflowTag, Tag, WorkerMetric
from massact.store.schema.points import Points, StoredPoint, encode_point, is_scored, point_of, point_tag
from massact.store.schema.rows import EvaluationRow, PublishedRow, Scores, StageRow, decode_evaluation, encode_row
