"""Training in several processes: who they are, what each has of a batch, and what they add up."""

from rectab.processes.group import Processes, ProcessLost, current, joined, leads
from rectab.processes.share import current_share, sharing

__all__ = ["ProcessLost", "Processes", "current", "current_share", "joined", "leads", "sharing"]
