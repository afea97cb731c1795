"""Whether an order of letters keeps all rules: the verdict of recipes/orders.yaml.

    kept({"prompt": "Rules: B<A, C<B. Which order?", "response": "\\boxed{CBA}"})     -> True

Many orders may be right, so no gold answer tells; a rule `B<A` says that B comes before A.
"""

import re
from collections.abc import Mapping
from typing import Any


def kept(row: Mapping[str, Any]) -> bool | str:
    """True, or what is wrong with the last boxed order."""
    rules = re.findall(r"([A-Z])<([A-Z])", row.get("problem") or row["prompt"])
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", row["response"])
    if not boxes:
        return "no box"
    order, letters = re.sub(r"[\s,<]", "", boxes[-1]), {letter for rule in rules for letter in rule}
    if sorted(order) != sorted(letters):
        return "not each letter once"
    return "breaks a rule" if any(order.index(a) > order.index(b) for a, b in rules) else True
