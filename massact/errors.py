"""The one exception tree. A message says what is wrong, which value, and what to do.

The command line prints the message alone and exits with `exit_code`: 2 where the input
must be changed, 1 where the work itself failed or the answer is "no".
"""


def lfs_advice(begin: bytes) -> str | None:
    """What to do about a file that begins so, where Git LFS put it in place of a large one."""
    if not begin.startswith(b"version https://git-lfs.github.com/spec/"):
        return None
    return "a Git LFS pointer stands in place of the data: run `git lfs pull` in the repository that it is from"


class MassactError(Exception):
    """Base of every error that massact raises on purpose."""

    exit_code = 1


class UsageError(MassactError):
    """The caller's input is wrong: nothing was started, nothing was written."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that the experiment asked about does not have: nothing is wrong with the question itself."""


class UnknownExperimentError(UnknownNameError):
    """An experiment that neither a file declares nor the run store holds."""


class NoMatrixError(UsageError):
    """A question about what should be there, where nothing declares it."""


class ConfigError(UsageError):
    """The experiment file is wrong; the message names the file, the line and the key."""


class PluginError(UsageError):
    """Something that another package adds to massact is missing or broken."""


class DataError(UsageError):
    """A dataset, a prompt file or an imported file is wrong."""


class ModelError(UsageError):
    """A model cannot be loaded, or it is not built as a decoder that can be steered."""


class StoreError(UsageError):
    """The run store cannot be reached, or what it holds is not a store of ours."""


class UnusableStoreError(StoreError):
    """The run store cannot be used from here, however long one waits: nothing that passes by itself."""


class RunRefusedError(StoreError):
    """A run store takes no such run, whenever it is asked; others it does."""


class MissingPrerequisiteError(MassactError):
    """A step needs the result of an earlier step; the message names the command that makes it."""


class NothingToConfirmError(UsageError):
    """No winner can be confirmed; the message says why and what to do."""


class JudgeError(MassactError):
    """The judge as a whole cannot be used (one response that it cannot score is not an error)."""


class ExecutorError(MassactError):
    """Cells cannot be run any more: their workers are lost, or none can be started."""


class SpoolError(MassactError):
    """The spool's folder can no longer be written to; what was written there before is safe."""


class SpoolFolderError(SpoolError):
    """The spool's folder cannot be used at all: nothing has begun."""

    exit_code = 2
