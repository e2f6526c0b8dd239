"""Embedding tables on one contract: one file a method, or a folder where it has several parts (DNIS, OptEmbed)."""

from rectab.tables import (
    alpt,
    cafe,
    deeplight,
    dhe,
    dnis,
    dynamic,
    full,
    hashed,
    memcom,
    narrow,
    optembed,
    pep,
    pruned,
    qr,
    quantizing,
    shaver,
    unified,
)
from rectab.tables.addressing import Address
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.budget import format_bytes, full_table_bytes, parse_budget
from rectab.tables.collisions import Collisions, expected_collisions
from rectab.tables.family import Family, InfeasibleBudget
from rectab.tables.io import load_table, save_table
from rectab.tables.ledger import Ledger, LedgerEntry
from rectab.tables.planning import InfeasibleTraining, Plan, plan
from rectab.tables.registry import (
    TableMethod,
    build_table,
    config_from_json,
    config_to_json,
    get_method,
    methods,
    register,
)

__all__ = [
    "Address",
    "Collisions",
    "EmbeddingTable",
    "Family",
    "InfeasibleBudget",
    "InfeasibleTraining",
    "Ledger",
    "LedgerEntry",
    "Plan",
    "TableMethod",
    "TableOptions",
    "alpt",
    "build_table",
    "cafe",
    "config_from_json",
    "config_to_json",
    "deeplight",
    "dhe",
    "dnis",
    "dynamic",
    "expected_collisions",
    "format_bytes",
    "full",
    "full_table_bytes",
    "get_method",
    "hashed",
    "load_table",
    "memcom",
    "methods",
    "narrow",
    "optembed",
    "parse_budget",
    "pep",
    "plan",
    "pruned",
    "qr",
    "quantizing",
    "register",
    "save_table",
    "shaver",
    "unified",
]
