"""CTR models: any embedding table, any history tower, any interaction."""

from rectab.models import shallow, deep, dcnv2, dlrm, armnet, mf, history, din  # noqa: F401, I001  in the order they are listed
from rectab.models.base import CTRModel, with_table
from rectab.models.config import ModelConfig
from rectab.models.registry import (
    InteractionInfo,
    TowerInfo,
    get_interaction,
    get_tower,
    interactions,
    register_interaction,
    register_tower,
    towers,
)

__all__ = [
    "CTRModel",
    "InteractionInfo",
    "ModelConfig",
    "TowerInfo",
    "get_interaction",
    "get_tower",
    "interactions",
    "register_interaction",
    "register_tower",
    "towers",
    "with_table",
]
