"""The paper's benchmarks in miniature, as `NAME/test.jsonl` files."""

from pathlib import Path

from micota_lf.system.files import write_jsonl

# Two rows in the shape of each data set on the hub; the problems are ours.
MINIATURES = {
    "aime24": [
        {"id": 60, "problem": "What is the square of five?", "solution": "...", "answer": "025", "url": ""},
        {"id": 61, "problem": "How many are seven elevens?", "solution": "...", "answer": "77", "url": ""},
    ],
    "amc23": [
        {"id": 0, "question": "What is 20+7?", "answer": 27.0, "url": ""},
        {"id": 1, "question": "What is 1/2?", "answer": "0.5", "url": ""},
    ],
    "olympiadbench": [
        {"id": 7, "question": "Solve $x^2=9$.", "final_answer": ["$3$,$-3$"], "is_multiple_answer": True},
        {"id": 8, "question": "Solve $x+1=9$.", "final_answer": ["8"], "is_multiple_answer": False},
    ],
    "math-500": [
        {"unique_id": "test/a/1.json", "problem": "Name $\\tfrac12$.", "answer": "\\frac{1}{2}"},
        {"unique_id": "test/a/2.json", "problem": "A pair?", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)"},
    ],
    "gsm8k": [
        {"question": "Add 1000 and 125.", "answer": "1000+125=<<1000+125=1125>>1125\n#### 1,125"},
        {"question": "Add 9 and 9.", "answer": "9+9=18\n#### 18"},
    ],
}  # fmt: skip


def write_miniatures(folder: Path) -> Path:
    for name, rows in MINIATURES.items():
        write_jsonl(folder / name / "test.jsonl", rows)
    return folder
