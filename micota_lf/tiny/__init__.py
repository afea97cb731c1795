"""Two families of small Qwen2 models, their tokenizer and their arithmetic problems."""

from pathlib import Path

TINY_ROOT = Path(__file__).resolve().parent
"""Holds `models/NAME`, `models/gap/NAME` (`tiny:NAME`, `tiny:gap/NAME`) and `data/` (JSONL files)."""
