"""Problems to respond to, and benchmarks: from a JSONL file, the tiny family, or a data set on the hub.

rows = load_problems(Prompts("tiny:train", limit=10))
chat(rows[0]["problem"], prompts)   -> [{"role": "user", "content": "What is ..."}]
"""

from collections import Counter
from itertools import islice
from typing import Any, Literal

from ..errors import UserError, first_line, nearest
from ..system.fields import Apart, Count, Section, identity
from ..system.files import NO_TEXT, Row, digest, is_text, iter_jsonl, usable_rows
from .references import DataRef


class Problems(Section):
    """Problems with answers: a JSONL file, `tiny:NAME`, or a data set id on the hub.

    `answer_format`: `plain` text or number, `gsm8k` (what follows `####`), `list` (several answers).
    `skip_bad` leaves out rows without problem or answer, where the first one would be an error.
    """

    path: Apart[str]
    revision: Apart[str | None] = None
    subset: str | None = None
    split: str = "train"
    id_field: str = "id"
    problem_field: str = "problem"
    answer_field: str = "answer"
    answer_format: Literal["plain", "gsm8k", "list"] = "plain"
    limit: Count | None = None
    skip_bad: bool = False

    @property
    def source(self) -> DataRef:
        """The file or data set, and its revision."""
        return DataRef(self.path, self.revision)


class Prompts(Problems):
    """Training problems and how a model is asked for a response to one."""

    # The official repository's instruction (OPPO-PersonalAI/MiCoTA); the paper does not give one.
    template: str = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}."
    system: str | None = None


class Benchmark(Problems):
    """Test problems of one benchmark, and how its answer column is read.

    `legacy_rule`: string match of the paper's lineage: `hendrycks`; `number`, which first drops leading zeros
    and a trailing `.0`; or `last_number`, which looks at no box (GSM8K). `problems` is how many there should
    be: another number is warned of. A local file has no subset, split or revision.
    """

    split: str = "test"
    legacy_rule: Literal["hendrycks", "number", "last_number"] = "hendrycks"
    licence: Apart[str] = ""
    problems: Apart[Count | None] = None


def answer_text(value: Any, answer_format: str = "plain") -> str:
    """A gold answer as text, from an answer column's value. Raises ValueError saying what is wrong.

    `plain`: text or a number, where a float without a fraction is an integer (AMC's 27.0 is 27).
    `gsm8k`: what follows the last `####`, without thousands separators, as GSM8K's evaluation reads it.
    `list`: several answers joined by commas. A list of one is that one in any format.
    """
    if isinstance(value, list) and (len(value) == 1 or (value and answer_format == "list")):
        return ", ".join(map(answer_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"holds no answer: {value!r:.60}")
    if answer_format != "gsm8k":
        return str(value).strip()
    _, mark, final = str(value).rpartition("####")
    if not mark or not final.strip():
        raise ValueError("has no answer after '####'")
    return final.strip().replace(",", "")


def load_problems(spec: Problems, skipped: list[str] | None = None) -> list[Row]:
    """Rows `{id, problem, answer}` of a set of problems.

    A row without an id gets one from its problem's hash; where that text repeats, `-2`, `-3`, ... follow.
    Raises UserError, naming file, row and column, for an empty source, and for a row without a problem, an
    answer that cannot be read, or a given id that occurs twice; with `skip_bad` these rows are left out and
    told to `skipped`.
    """
    ids, copies = set[str](), Counter[str]()
    fields = (spec.problem_field, spec.answer_field, spec.id_field)

    def problem_of(row: Row) -> Row:
        problem, answer, given = map(row.get, fields)
        if not isinstance(problem, str) or not problem.strip():
            raise ValueError(f"has no text in {fields[0]!r}; {nearest(fields[0], row)}")
        if broken := [field for field in fields if not is_text(str(row.get(field)))]:
            raise ValueError(f"{broken[0]!r} {NO_TEXT}")
        gold = None
        if answer is not None or isinstance(spec, Benchmark) or spec.skip_bad:
            try:
                gold = answer_text(answer, spec.answer_format)
            except ValueError as error:
                raise ValueError(f"{spec.answer_field!r} {error}") from None
        if given in (None, ""):
            copies[problem] += 1
            given = digest(problem) + (f"-{copies[problem]}" if copies[problem] > 1 else "")
        if str(given) in ids:
            raise ValueError(f"has the same id {str(given)!r} as an earlier row")
        ids.add(str(given))
        return {"id": str(given), "problem": problem, "answer": gold}

    bad = ([] if skipped is None else skipped) if spec.skip_bad else None
    local = spec.source.local
    source = iter_jsonl(local, skipped=bad) if local else _hub_rows(spec)
    rows = list(islice(usable_rows(source, spec.path, problem_of, bad), spec.limit))
    if not rows:
        first = f"; the first bad row: {bad[0]}" if bad else ""
        raise UserError(f"{spec.path}: holds no prompts{first}")
    return rows


def benchmark_identity(spec: Benchmark) -> dict[str, Any]:
    """What decides a benchmark's problems and verdicts, for a step's hash: content, never a path."""
    place = ("subset", "split") if spec.source.local else ()
    return {key: value for key, value in identity(spec).items() if key not in place} | spec.source.identity()


def user_text(problem: str, template: str) -> str:
    """The user's message: the template with the problem put in (other braces are left alone)."""
    return template.replace("{problem}", problem)


def chat(problem: str, prompts: Prompts) -> list[dict[str, str]]:
    """The conversation that asks for a response, as chat messages."""
    user = {"role": "user", "content": user_text(problem, prompts.template)}
    return [{"role": "system", "content": prompts.system}, user] if prompts.system else [user]


def _hub_rows(spec: Problems) -> list[Row]:
    from datasets import load_dataset

    try:
        return list(load_dataset(spec.path, spec.subset, split=spec.split, revision=spec.revision))
    except Exception as error:  # datasets raises many kinds; each means that the set is not to be had
        cure = "; evaluation.data_dir may name a folder with NAME/test.jsonl" * isinstance(spec, Benchmark)
        words = f"could not be loaded from the hub: {first_line(error)}{cure}"
        raise UserError(f"{spec.path!r} {words}") from error
