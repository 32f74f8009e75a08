"""Finding the best coefficient of many ladders with few evaluations. Values in, values out."""

from massact.sweep.search.curves import Observation
from massact.sweep.search.ladders import MOVES, Done, Ladder, Settings, Step, Try, next_steps

__all__ = ["MOVES", "Done", "Ladder", "Observation", "Settings", "Step", "Try", "next_steps"]
