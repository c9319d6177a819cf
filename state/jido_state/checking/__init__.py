"""Checkers of what clients saw and of what replicas hold, for simulated and real runs alike.

- `models.py`: what one agent may answer, one operation after another;
- `linearizability.py`: whether concurrent operations could have come from one copy (strong);
- `sessions.py`: whether each session's answers build on each other (session);
- `convergence.py`: whether copies end equal, with all that was acknowledged (eventual).
"""

from jido_state.checking.convergence import (
    check_converged,
    check_counter,
    check_elements,
    in_real_time,
)
from jido_state.checking.linearizability import MAX_STEPS, Outcome, Verdict, check_linearizable
from jido_state.checking.models import UNKNOWN, Model, Register
from jido_state.checking.sessions import Sight, Violation, check_sessions

__all__ = [
    "MAX_STEPS",
    "UNKNOWN",
    "Model",
    "Outcome",
    "Register",
    "Sight",
    "Verdict",
    "Violation",
    "check_converged",
    "check_counter",
    "check_elements",
    "check_linearizable",
    "check_sessions",
    "in_real_time",
]
