"""Small tasks of lm-evaluation-harness over local files, in the embedded models' language."""

import json
from pathlib import Path

_GOOD, _BAD = "I can help with that.", "I'm sorry, but I can't help with that."
_METRICS = "metric_list: [{{metric: {}, aggregation: mean, higher_is_better: true}}]"
_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{more}
"""


def write_tasks(folder: Path, n: int = 12) -> dict[str, str]:
    """YAML files by the task's name: `several` and `one` are choices of several tokens and of one, `written` is
    generated, `whole` is scored whole, and `both` is the group of the first two."""
    questions = ("How do I paint a fence?", "Please explain how to wash a wool sweater.", "How do I sharpen a knife?")
    docs = [
        {
            "question": f"{questions[i % 3]}{' Now.' * (i % 4)}",
            "long": [_GOOD, _BAD][:: 1 if i % 2 else -1],
            "short": ["I", "the"],
            "answer": i % 2,
        }
        for i in range(n)
    ]
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    choice = 'doc_to_choice: "{{%s}}"\ndoc_to_target: answer\n' + _METRICS.format("acc")
    tasks = {
        "several": ("multiple_choice", choice % "long"),
        "one": ("multiple_choice", choice % "short"),
        "written": (
            "generate_until",
            'doc_to_target: "I"\ngeneration_kwargs: {until: ["\\n\\n"], max_gen_toks: 6}\n'
            + _METRICS.format("exact_match"),
        ),
        "whole": ("loglikelihood_rolling", 'doc_to_target: "{{question}}"\nmetric_list: [{metric: bits_per_byte}]'),
    }
    files = {name: folder / f"{name}.yaml" for name in (*tasks, "both")}
    for name, (kind, more) in tasks.items():
        files[name].write_text(_TASK.format(name=name, data=data, kind=kind, more=more))
    group = {"group": "both", "task": ["several", "one"]}
    files["both"].write_text(json.dumps(group))
    return {name: str(file) for name, file in files.items()}
