"""Which executor a command runs its cells with."""

from collections.abc import Callable
from pathlib import Path

from massact.config import Experiment, JudgeConfig, ModelConfig, VariantConfig
from massact.executors.base import Executor, JudgeUse, ModelUse
from massact.executors.local import LocalExecutor
from massact.judges import Judge, Subject
from massact.models.load import SteerableModel
from massact.phases.judges import Elsewhere
from massact.phases.workload import Workload
from massact.tracking.spool import Spool

Say = Callable[[str], None]


def open_executor(
    workload: Workload,
    tracking_uri: str,
    experiment: Experiment,
    *,
    load: Callable[[ModelUse], SteerableModel],
    spool: Callable[[], Spool],
    say: Say,
) -> Executor:
    """The executor that a workload asks for; nothing is started before cells are to be run.

    Raises:
        UsageError: what it needs is not installed.
    """
    if workload.ray is None:
        return LocalExecutor(load, spool)
    from massact.executors.ray.executor import RayExecutor
    from massact.executors.ray.worker_env import CommandContext

    context = CommandContext(
        tracking_uri=tracking_uri,
        experiment=experiment.name,
        spool=workload.spool.absolute(),
        key_variable=experiment.judge.api_key_env,
    )
    return RayExecutor(workload.ray, context, spool=spool, say=say)


def remote_judge(
    executor: Executor, model_use: Callable[[ModelConfig, VariantConfig], ModelUse]
) -> Elsewhere | None:
    """What puts a process of the executor's in the place of a judge; `None` where judges work in this one."""
    if isinstance(executor, LocalExecutor):
        return None
    from massact.executors.ray.executor import RayExecutor

    assert isinstance(executor, RayExecutor)

    def elsewhere(
        judge: Judge, config: JudgeConfig, subject: Subject, model: ModelConfig | None, cache: Path | None
    ) -> Judge:
        use = JudgeUse(
            config=config,
            model=subject.resolve(config.model) if config.model else "",
            definition=subject.definition,
            eval_prompt=subject.eval_prompt,
            steered=None if model is None else model_use(model, model.instruct),
            identity=judge.identity,
            cache=None if cache is None else cache.absolute(),
        )
        return executor.judge(use)

    return elsewhere
