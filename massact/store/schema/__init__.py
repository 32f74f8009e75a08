"""What the run store holds, in names and typed round trips: the one part that both sides share.

`massact.store.write` writes what is named here, `massact.store.read` reads it. MLflow gives every param back
as a string and cannot filter params by range, so an evaluation is kept several times over: as params
and metrics for people, per question as stepped metrics, whole as one compact JSON row in a tag
(`rows`), its scores in another (`scores`), and the little that questions rank by in a third (`points`).
"""

from massact.store.schema.cells import cell_fields, stored_cell
from massact.store.schema.declared import (
    Declared,
    DeclaredPhase,
    DeclaredSetting,
    declared_content,
    declared_from,
    declared_prefix,
    declared_tag,
    decode_declared,
    encode_declared,
)
from massact.store.schema.names import (
    COHERENCE_SCORE,
    POINT_KEYS,
    POINT_TAG,
    ROW_TAGS,
    SCHEMA_VERSION,
    TAG_LIMIT,
    TRAIT_SCORE,
    Artifact,
    JudgeMetric,
    Kind,
    MlflowTag,
    Tag,
    WorkerMetric,
)
from massact.store.schema.points import (
    Place,
    Points,
    RunText,
    StoredPoint,
    decode_points,
    encode_point,
    is_scored,
    point_of,
    point_tag,
)
from massact.store.schema.rows import (
    EvaluationRow,
    PublishedRow,
    Row,
    Scores,
    StageRow,
    decode_evaluation,
    decode_many_scores,
    decode_published,
    decode_scores,
    decode_stage,
    encode_row,
    encode_scores,
    evaluation_metrics,
    evaluation_params,
    format_param,
    run_name,
)
