"""Outcomes: running one check, and the row of the report for what it found or raised."""

from __future__ import annotations

from collections.abc import Callable

from autoadapt.adapting.verification.checks import THOROUGH_CHECKS, WITHOUT_VALUES
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.results import Check, failed
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.randomness import undisturbed
from autoadapt.errors import AdaptError, Mismatch


def checked(session: Session, name: str, run: Callable[[Session], Findings]) -> Check:
    """Run one check; an exception is a failure, except `NotApplicableError`."""
    session.blamed.clear()
    if not session.has_values and name not in WITHOUT_VALUES:
        return Check(name=name, outcome="not applicable", detail="the module is on the meta device and has no values")
    try:
        with undisturbed(None if name in THOROUGH_CHECKS else 0):
            findings = run(session)
    except NotApplicableError as reason:
        return Check(name=name, outcome="not applicable", detail=str(reason))
    except AdaptError as error:
        return failed(name, error.mismatches or [Mismatch(name, "", error.summary)])
    except Exception as error:
        return failed(name, [Mismatch(name, "a run without error", said(error))])
    if findings.faults:
        return failed(name, findings.faults)
    blamed = tuple(dict.fromkeys(session.blamed))
    also = f"the bare backbone does not keep: {', '.join(blamed)}" if blamed else ""
    detail = "; ".join(filter(None, (findings.detail, also)))
    return Check(name=name, outcome="passed", detail=detail, blamed=blamed)
