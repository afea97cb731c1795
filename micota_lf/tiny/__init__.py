"""Three families of small Qwen2 models, their tokenizer and their problems: sums, and letters in order."""

from pathlib import Path

TINY_ROOT = Path(__file__).resolve().parent
"""Holds `models/NAME`, `models/gap/NAME` (`tiny:NAME`, `tiny:gap/NAME`) and `data/` (JSONL files)."""
