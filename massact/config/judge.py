"""The section `judge` of an experiment file."""

from massact.config.helpers import optional
from massact.config.values import JudgeConfig
from massact.config.yaml_reader import Entry


def parse_judge(entry: Entry) -> JudgeConfig:
    if isinstance(entry.value, str):
        return JudgeConfig(_judge_name(entry))
    section = entry.section()
    judge = JudgeConfig(
        name=_judge_name(section.take("name")),
        base_url=optional(section, "base_url", Entry.text, None),
        concurrency=optional(section, "concurrency", lambda e: e.integer(at_least=1), 16),
    )
    section.close()
    return judge


def _judge_name(entry: Entry) -> str:
    name = entry.text()
    if name != "likelihood" and not (name.startswith("openai:") and name.removeprefix("openai:").strip()):
        raise entry.error(f"unknown judge {name!r}; write likelihood or openai:MODEL")
    return name
