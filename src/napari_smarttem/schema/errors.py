"""What can go wrong, in the words a person at the microscope needs: what was wrong, what was expected, what to do next."""

from __future__ import annotations


class SmartTEMError(Exception):
    """Base of every error this package raises on purpose. Its text is one clear sentence for a person."""


class BadInput(SmartTEMError, ValueError):
    """A file, setting or array that cannot be used, with the reason."""


class MissingCapability(SmartTEMError):
    """The instrument lacks something a task needs."""


class LimitExceeded(SmartTEMError):
    """A command outside the instrument's limits or larger than the permitted step; nothing was moved."""


class DoseBudgetExceeded(SmartTEMError):
    """The next exposure would exceed the dose budget; it was not made."""


class Cancelled(SmartTEMError):
    """A person, or the end of the program, asked for the work to stop."""


class InstrumentFault(SmartTEMError):
    """The instrument did not do what it was asked.

    Parameters
    ----------
    message : str
        One sentence.
    transient : bool
        True where the same command may succeed when repeated (a time-out, a bad frame); False where nothing further can be
        measured (connection lost, beam gone).
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class JournalError(SmartTEMError):
    """The run folder cannot be written or read: disk full, in use by another program, damaged."""
