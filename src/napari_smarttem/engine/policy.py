"""Who judges when nobody sits at the screen: policies that end a review by rule, and are named in every verdict they give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..schema import BadInput, TargetState
from .review import Review

_KNOWN = "'ask', 'approve_all', 'approve_above:SCORE' or 'file:PATH'"


@dataclass(frozen=True)
class Policy:
    """A named rule that judges an open review; ``judge`` is None where a person is asked.

    Attributes
    ----------
    text : str
        As `parse_policy` reads it; written into the run's start.
    judge : callable or None
        Gets the open review and gives verdicts.
    """

    text: str
    judge: Callable[[Review], None] | None = None


def parse_policy(text: str) -> Policy:
    """Read a policy.

    ``"ask"`` waits for a person. ``"approve_all"`` approves everything. ``"approve_above:0.5"`` approves scores of at least 0.5 and
    rejects the others. ``"file:PATH"`` reads verdicts from a JSON object ``{target id: "approved" or "rejected"}``; targets it does
    not name are rejected.

    Raises
    ------
    BadInput
        None of these, or a file that cannot be read.
    """
    word, _, argument = text.partition(":")
    if text == "ask":
        return Policy(text)
    if text == "approve_all":
        return Policy(text, lambda review: review.approve(_proposed(review), who=f"policy {text}"))
    if word == "approve_above":
        try:
            threshold = float(argument)
        except ValueError:
            threshold = float("nan")
        if not 0.0 <= threshold <= 1.0:
            raise BadInput(f"approve_above needs a score between 0 and 1, got {argument!r}.")
        return Policy(text, lambda review: _approve_above(review, threshold, f"policy {text}"))
    if word == "file":
        verdicts = _read_verdicts(Path(argument))
        return Policy(text, lambda review: _from_verdicts(review, verdicts, f"policy {text}"))
    raise BadInput(f"{text!r} is not a review policy; it must be {_KNOWN}.")


def _proposed(review: Review) -> list[str]:
    return [j.target.target_id for j in review.items() if j.state is TargetState.PROPOSED]


def _approve_above(review: Review, threshold: float, who: str) -> None:
    scores = {key: review.get(key).target.score for key in _proposed(review)}
    review.approve([key for key, score in scores.items() if score >= threshold], who=who)
    review.reject([key for key, score in scores.items() if score < threshold], who=who)


def _read_verdicts(path: Path) -> dict[str, TargetState]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        verdicts = {str(key): TargetState(value) for key, value in content.items()}
        if not set(verdicts.values()) <= {TargetState.APPROVED, TargetState.REJECTED}:
            raise ValueError("a verdict is 'approved' or 'rejected'")
    except OSError as error:
        raise BadInput(f"The verdicts in {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise BadInput(
            f"{path} holds no verdicts: {error}; expected {{target id: 'approved' or 'rejected'}}."
        ) from error
    return verdicts


def _from_verdicts(review: Review, verdicts: dict[str, TargetState], who: str) -> None:
    waiting = _proposed(review)
    approved = [key for key in waiting if verdicts.get(key) is TargetState.APPROVED]
    review.approve(approved, who=who)
    review.reject([key for key in waiting if key not in set(approved)], who=who)
