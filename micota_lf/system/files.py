"""Reading and writing files so that a half-written one is never taken for whole.

In: paths and plain data. Out: JSON and JSON Lines files that appear by rename.

    write_jsonl("corpus.jsonl", rows)
    rows = read_jsonl("corpus.jsonl")
"""

import csv
import gzip
import hashlib
import json
import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import jsonlines
import yaml

from ..errors import UserError, first_line

Row = dict[str, Any]
T = TypeVar("T")

# Above this size a file is identified by its size and both ends: hashing 60 GB of weights would
# take minutes at every plan, and a safetensors header at the start names every tensor.
WHOLE_FILE_HASH_BYTES, END_BYTES = 64 * 2**20, 2**20
PARTIAL = ".*.partial"  # what a writer that was killed leaves
NO_TEXT = "holds half a surrogate pair, which is no text"
ABSENT = "(absent)"
MAX_LINE = 2**25  # characters of a row: a thousand times a response of 16K tokens


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[str]]:
    """Yield a text handle; the file gets its name only after a clean end and an fsync.

    Half a surrogate pair, which JSON can hold and UTF-8 cannot, is written as JSON's escape of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(PARTIAL.replace("*", f"{path.name}.{os.getpid()}"))
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file by rename."""
    with atomic_writer(path) as handle:
        handle.write(text)


def write_json(path: str | Path, data: Any) -> None:
    """Write readable JSON by rename."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or broken one is a UserError naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error


def read_note(path: Path) -> dict[str, Any]:
    """Read a JSON object that another process may remove or be writing; empty if it is not there whole."""
    with suppress(UserError, ValueError):
        return dict(read_json(path))
    return {}


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8; half a surrogate pair, as JSON can hold, cannot."""
    return text.encode(errors="ignore").decode() == text


def json_line(row: Row) -> str:
    """A row as one line; half a surrogate pair is escaped, as JSON has it."""
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n"


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, by rename."""
    with atomic_writer(path) as handle:
        jsonlines.Writer(handle).write_all(rows)


def iter_jsonl(path: str | Path, repair: bool = False, skipped: list[str] | None = None) -> Iterator[Row]:
    """The rows of a file one by one; blank lines are skipped.

    A name that ends in `.csv` (its values stay text), `.json` (one list of rows) or `.parquet` is of such a
    file, any other of JSON Lines; but for Parquet, `.gz` may follow. A folder is one of datasets'
    save_to_disk. With `repair`, a last line without its end (the writer was killed in the middle of it) is
    dropped; with `skipped`, a line that holds no row is told there and left out. Raises UserError naming the
    file, and of JSON the row, for anything else.
    """
    path, kind = Path(path), Path(str(path).removesuffix(".gz")).suffix
    try:
        if path.is_dir() or kind == ".parquet":
            from datasets import Dataset

            yield from Dataset.load_from_disk(str(path)) if path.is_dir() else Dataset.from_parquet(str(path))
            return
        # A gzip is unpacked as a whole: jsonlines takes its early end for the file's.
        packed = path.suffix == ".gz"
        with BytesIO(gzip.decompress(path.read_bytes())) if packed else path.open("rb") as handle:
            if (start := handle.read(len(BOM_UTF8))) == BOM_UTF8:  # engines that read the file may stumble
                raise ValueError("line 1 is not JSON: it starts with a byte order mark")
            handle.seek(0)
            if kind == ".csv":
                yield from csv.DictReader(line.decode() for line in handle)
            lines = (line for line in handle if line.endswith(b"\n") or not repair)
            if kind == ".json" and start.startswith(b"["):
                lines = (json.dumps(row).encode() for row in json.load(handle))
            reader = jsonlines.Reader(lines, loads=_row)
            with suppress(EOFError):
                while True:
                    try:
                        yield reader.read(type=dict, skip_empty=True)
                    except jsonlines.InvalidLineError as error:
                        if skipped is None:
                            raise
                        skipped.append(f"{path}: line {error.lineno} {first_line(error.__cause__ or error)}")
    except Exception as error:  # of several libraries: each means that the file is not what its name says
        where = f"line {error.lineno} " if isinstance(error, jsonlines.InvalidLineError) else ""
        reason = first_line(error.__cause__ or error)
        what = {".csv": "CSV", ".json": "JSON", ".parquet": "Parquet"}.get(kind, "UTF-8 JSON Lines")
        raise UserError(f"{path}: cannot be read as {what}: {where}{reason}") from error


def usable_rows(
    rows: Iterable[Row], path: str | Path, read: Callable[[Row], T], skipped: list[str] | None = None
) -> Iterator[T]:
    """What `read` makes of each row of a file; it raises ValueError with the words for one that is no good.

    That is a UserError naming file and row, or with `skipped` (the same that `iter_jsonl` was given) it is
    told there and left out.
    """
    refused = 0
    for index, row in enumerate(rows, start=1):
        try:
            made = read(row)
        except ValueError as error:
            words = f"{path}: row {index + len(skipped or ()) - refused}: {error}"
            if skipped is None:
                raise UserError(words) from error
            skipped.append(words)
            refused += 1
        else:
            yield made


def _row(line: str | bytes) -> Row:
    """Raises ValueError saying what a line is in place of a row."""
    if len(line) > MAX_LINE:
        raise ValueError(f"has {len(line)} characters; a row has at most {MAX_LINE}")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"is a {type(row).__name__}, not a JSON object")
    return row


def read_jsonl(path: str | Path) -> list[Row]:
    """All rows of a JSON Lines file, as `iter_jsonl` reads them."""
    return list(iter_jsonl(path))


def read_beside(module: str, name: str = "") -> Any:
    """The YAML file beside a module of ours, given its `__file__`: of the same name, or of another `name`."""
    path = Path(module).with_suffix(".yaml")
    return yaml.safe_load((path.with_stem(name) if name else path).read_text(encoding="utf-8"))


def write_yaml(path: str | Path, data: Any) -> None:
    """Write YAML by rename, keys in the order given."""
    write_text(path, yaml.safe_dump(data, sort_keys=False))


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """`path: old -> new` for each value of two mappings that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{at}: {old!r} -> {new!r}"] if old != new else []
    lines = []
    for key in {**old, **new}:
        lines += differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{at}.{key}".lstrip("."))
    return lines


def digest(data: Any, length: int = 12) -> str:
    """First `length` hex digits of the SHA-256 of `data` as canonical JSON."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_digest(path: str | Path) -> str:
    """Hex digest that identifies a file's content (size and both ends above 64 MiB)."""
    with Path(path).open("rb") as handle:
        size = os.stat(handle.fileno()).st_size
        sha = hashlib.sha256(str(size).encode())
        if size > WHOLE_FILE_HASH_BYTES:
            sha.update(handle.read(END_BYTES))
            handle.seek(-END_BYTES, os.SEEK_END)
        sha.update(handle.read())
    return sha.hexdigest()[:16]


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a whole file, read in pieces: what `sha256sum` prints."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def directory_digest(path: str | Path) -> str:
    """Hex digest of the names and contents of a directory's files (not of its subdirectories)."""
    files = sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
    return digest([(p.name, file_digest(p)) for p in files], 16)
