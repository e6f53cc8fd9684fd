"""Everything that can happen to orders, as rules that hypothesis puts in any order."""

from model.arriving import Arriving
from model.people import People
from model.working import Working


class Relaying(Arriving, Working, People):
    """Receive, claim, call, record, crash, call back, steer: in any order."""
