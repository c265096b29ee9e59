"""Ends the evaluation when the server refuses a request."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from launcher.adapters.base import Edit, Part
from launcher.adapters.retry import RETRYABLE_STATUSES
from launcher.core.errors import AdapterStop, UserError
from launcher.core.responses import error_message
from launcher.core.types import Request, Response
from launcher.settings.component import component


@component("adapters/raise_client_errors")
class RaiseClientErrors(Edit):
    """Ends the evaluation at the first answer with a status from 400 to 499, and says what the server said.

    Without it, such a sample ends as refused or failed, and the others are asked. 408, 409, 425 and 429 are no such
    errors, and neither are those of ``allow``, for instance ``[400]`` where prompts may be too long. What was done
    stays, and ``resume=`` continues the run.

    Use it while an evaluation is set up: a wrong model name then ends the run at once, and not after all samples.

    Example: ``python launch.py 'adapters=[raise_client_errors,retry]' 'adapters.raise_client_errors.allow=[400]'``
    """

    changes_answers: ClassVar[bool] = False
    copies = True
    reads = Part.none
    rewrites = Part.none

    allow: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        wrong = [status for status in self.allow if not 400 <= status < 500]
        if wrong:
            raise UserError(f"adapters.raise_client_errors.allow has {wrong[0]}; expected statuses from 400 to 499")

    def edit_answer(self, request: Request, response: Response) -> Response:
        passes = response.status in RETRYABLE_STATUSES or response.status in self.allow
        if 400 <= response.status < 500 and not passes:
            said = " ".join(str(error_message(response.body) or response.body).split())[:500]
            where = f" ({request.sample})" if request.sample else ""
            raise AdapterStop(
                f"adapters.raise_client_errors: the server answered HTTP {response.status}{where}: {said}; "
                f"allow it with adapters.raise_client_errors.allow=[{response.status}]"
            )
        return response
