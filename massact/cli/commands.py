"""Every command and where it lives: a command's module is loaded when it is run, not to list its name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is not loaded yet."""

    module: str
    attribute: str
    summary: str
    """The first sentence of its help, for the list of commands."""


COMMANDS: dict[str, Entry] = {
    "main": Entry("phases", "main_command", "Run the whole plan: calibrate, extract, phases 1 to 4, report."),
    "calibrate": Entry("phases", "calibrate", "Find each model's massive dims from neutral prompts."),
    "extract": Entry(
        "phases", "extract", "Extract activations and vectors, with every cleaning before and after."
    ),
    "phase1": Entry(
        "phases",
        "phase1",
        "Fill the coherence gaps of the key comparisons: the grid, gap analysis, a search, check again.",
    ),
    "phase2": Entry("phases", "phase2", "Compare cleaning before extraction with cleaning after it."),
    "phase3": Entry("phases", "phase3", "Trace the cleaning curve: 0, 1, 2, 3, 5 and all massive dims."),
    "phase4": Entry("phases", "phase4", "Work out coefficient patterns and recommendations from the store."),
    "confirm": Entry(
        "phases",
        "confirm",
        "Evaluate winners and labels tied with them once more, on questions that took no part in choosing them.",
    ),
    "predict": Entry(
        "predict",
        "predict",
        "Test what predicts the best coefficient and the cliff, and register what searches start from.",
    ),
    "evaluate": Entry(
        "evaluate", "evaluate", "Evaluate a grid of cells: labels x layers x coefficients at one window."
    ),
    "search": Entry(
        "search", "search", "Search the best coefficient of labels at every layer, with few evaluations."
    ),
    "fill-gaps": Entry(
        "search",
        "fill_gaps",
        "Search what gaps reports, until no gap remains or it is said why one cannot be closed.",
    ),
    "report": Entry(
        "phases", "report", "Write the report of everything the store holds, as HTML and Markdown."
    ),
    "gaps": Entry(
        "questions",
        "gaps",
        "Which groups have no result at or above the coherence floor, and what to try next.",
    ),
    "best": Entry("questions", "best", "The best result of each group at or above the coherence floor."),
    "compare": Entry(
        "questions", "compare", "Two labels side by side: the best of each, and whether they are one vector."
    ),
    "curve": Entry(
        "questions", "curve", "The best delta against the number of cleaned dims: 0, 1, 2, 3, 5, 10 and all."
    ),
    "coefficients": Entry(
        "questions",
        "coefficients",
        "Where the best coefficients lie, how methods and cleaning shift them, and where to start.",
    ),
    "sensitivity": Entry(
        "questions", "sensitivity", "Which label wins at every coherence floor, and where the winner flips."
    ),
    "judges": Entry(
        "questions",
        "judges",
        "The winners under two judges of the same responses, and which of them flip.",
    ),
    "confirmations": Entry(
        "questions",
        "confirmations",
        "Winners on questions that took no part in choosing them, and how much of each delta remains.",
    ),
    "runs": Entry("questions", "runs", "The evaluations one by one, with their runs."),
    "status": Entry(
        "status", "status", "Show what the store holds for an experiment, prerequisite by prerequisite."
    ),
    "doctor": Entry(
        "doctor",
        "doctor",
        "Find what is wrong in the run store and the spool, and with --fix mend what can be mended.",
    ),
    "judge-check": Entry(
        "judge_check",
        "judge_check",
        "Show a judge texts whose scores are known, several times, and how much its scores vary.",
    ),
    "rejudge": Entry(
        "rejudge",
        "rejudge",
        "Score stored responses with another judge, without generating any again.",
    ),
    "sync": Entry("sync", "sync", "Send finished evaluations that wait in the spool to the run store."),
    "users": Entry(
        "users", "users", "Who may use a tracking server with logins: readers, writers and administrators."
    ),
    "serve": Entry(
        "serve",
        "serve",
        "Start the tracking server and UI: database, artifacts and, with --auth, users.",
    ),
    "import": Entry(
        "transfer",
        "import_command",
        "Import old results: a results.jsonl file, or a folder such as trait-interp's experiments/.",
    ),
    "export": Entry(
        "transfer",
        "export_command",
        "Export results as results.jsonl files, with responses, calibrations and vectors, in trait-interp's layout.",
    ),
}
