"""What the run store holds, in names and typed round trips: the one part that both sides share.

`massact.tracking` writes what is named here, `massact.store` reads it. MLflow gives every param back
as a string and cannot filter params by range, so an evaluation is kept several times over: as params
and metrics for people, per question as stepped metrics, whole as one compact JSON row in a tag
(`rows`), its scores in another (`scores`), and the little that questions rank by in a third (`points`).
"""

from massact.schema.declared import (
    Declared,
    DeclaredPhase,
    DeclaredSetting,
    declared_prefix,
    declared_tag,
    decode_declared,
    encode_declared,
)
from massact.schema.names import (
    COHERENCE_SCORE,
    POINT_KEYS,
    POINT_TAG,
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
from massact.schema.point_text import decode_points, encode_point, point_tag
from massact.schema.points import Place, Points, RunText, StoredPoint, is_scored, point_of
from massact.schema.rows import (
    EvaluationRow,
    PublishedRow,
    StageRow,
    decode_evaluation,
    decode_published,
    decode_stage,
    encode_row,
    evaluation_metrics,
    evaluation_params,
    format_param,
)
from massact.schema.scores import Scores, decode_many_scores, decode_scores, encode_scores

__all__ = [
    "COHERENCE_SCORE",
    "POINT_KEYS",
    "POINT_TAG",
    "SCHEMA_VERSION",
    "TAG_LIMIT",
    "TRAIT_SCORE",
    "Artifact",
    "Declared",
    "DeclaredPhase",
    "DeclaredSetting",
    "EvaluationRow",
    "JudgeMetric",
    "Kind",
    "MlflowTag",
    "Place",
    "Points",
    "PublishedRow",
    "RunText",
    "Scores",
    "StageRow",
    "StoredPoint",
    "Tag",
    "WorkerMetric",
    "declared_prefix",
    "declared_tag",
    "decode_declared",
    "decode_evaluation",
    "decode_many_scores",
    "decode_points",
    "decode_published",
    "decode_scores",
    "decode_stage",
    "encode_declared",
    "encode_point",
    "encode_row",
    "encode_scores",
    "evaluation_metrics",
    "evaluation_params",
    "format_param",
    "is_scored",
    "point_of",
    "point_tag",
]
