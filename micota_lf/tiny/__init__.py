"""The tiny family: four small Qwen2 models, their tokenizer and their arithmetic problems."""

from pathlib import Path

TINY_ROOT = Path(__file__).resolve().parent
"""Folder that holds `models/` (teacher, assistant, student-m, student-s) and `data/` (JSONL files)."""
