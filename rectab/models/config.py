"""What a model is made of, as plain data: its interaction, its history tower and their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rectab.models.registry import get_interaction, get_tower, options_to_config
from rectab.plain import read_plain

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """An interaction and a history tower, each with its own config.

    Attributes:
        interaction: name of the interaction (``lr``, ``deepfm``, ...).
        history: name of the history tower (``none``, ``mean``, ``din``).
        interaction_config: of the interaction's own config class; its defaults if None.
        history_config: of the tower's own config class; its defaults if None.
    """

    interaction: str = "deepfm"
    history: str = "none"
    interaction_config: Any = field(default=None)
    history_config: Any = field(default=None)

    def __post_init__(self) -> None:
        for info, attribute in (
            (get_interaction(self.interaction), "interaction_config"),
            (get_tower(self.history), "history_config"),
        ):
            config = getattr(self, attribute)
            if config is None:
                object.__setattr__(self, attribute, info.config())
            elif not isinstance(config, info.config):
                raise TypeError(f"{info.name} takes a {info.config.__name__}, got {type(config).__name__}")

    @classmethod
    def from_options(
        cls,
        interaction: str,
        history: str = "none",
        interaction_options: Mapping[str, Any] | None = None,
        history_options: Mapping[str, Any] | None = None,
    ) -> ModelConfig:
        """From plain options, as read from a command line or a file. Raises ValueError for unknown names or options."""
        return cls(
            interaction,
            history,
            options_to_config(get_interaction(interaction), interaction_options or {}),
            options_to_config(get_tower(history), history_options or {}),
        )

    @property
    def max_history(self) -> int | None:
        """Number of most recent events the tower reads; None if it reads all, 0 if none."""
        return 0 if self.history == "none" else self.history_config.max_history

    def to_json(self) -> dict[str, Any]:
        return {
            "interaction": self.interaction,
            "history": self.history,
            "interaction_options": asdict(self.interaction_config),
            "history_options": asdict(self.history_config),
        }

    @classmethod
    def from_json(cls, data: Any) -> ModelConfig:
        """Read :meth:`to_json` back. Raises ValueError for other data."""
        told = read_plain(_Described, data, "model")
        return cls.from_options(told.interaction, told.history, told.interaction_options, told.history_options)


@dataclass(frozen=True)
class _Described:
    """What :meth:`ModelConfig.to_json` writes."""

    interaction: str
    history: str
    interaction_options: dict[str, Any]
    history_options: dict[str, Any]
