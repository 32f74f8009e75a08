"""Finding the best coefficient of many ladders with few evaluations. Values in, values out."""

from massact.pipeline.search.curves import Observation
from massact.pipeline.search.ladders import Ladder, Settings, Step, Try, next_steps
from massact.pipeline.search.outcome import MOVES, Done

__all__ = ["MOVES", "Done", "Ladder", "Observation", "Settings", "Step", "Try", "next_steps"]
