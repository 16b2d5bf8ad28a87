"""Every error that Tenure raises on purpose: one base class with a stable `code`, whether a retry can help, and a hint.

The codes are part of the interface: `tenure.cli.exit_codes` maps each to an exit code, and `docs/reference/errors.md`
lists them.
"""

from __future__ import annotations

from typing import ClassVar


class TenureError(Exception):
    """Base of all deliberate errors.

    `code` is stable and documented, `retryable` says whether the same call may succeed later without anyone changing
    anything, `hint` names the next step to take. Subclasses keep their context as typed attributes.
    """

    code: ClassVar[str] = "failed"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TenureError):
    """What the caller gave cannot be right: a malformed id, an unknown name, contradicting options."""

    code = "usage"


class UnknownName(UsageError):
    """A tenant, cell, store or operation of that name does not exist."""

    code = "unknown_name"


class ConfigurationError(TenureError):
    """A configuration file is wrong. `problems` holds every finding of the file, each with its line."""

    code = "configuration"

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class Declined(TenureError):
    """The person asked said no, or did not repeat the tenant's name."""

    code = "declined"


class NotAllowed(TenureError):
    """A rule forbids it: residency, legal hold, a preflight refusal. `findings` are the reasons, each with its fix."""

    code = "not_allowed"

    def __init__(self, message: str, *, findings: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.findings = findings


class OperationFailed(TenureError):
    """The operation ended unsuccessfully; everything it had created is gone and the tenant is served as before."""

    code = "operation_failed"


class TargetUnfit(TenureError):
    """A cell does not serve a tenant within the bounds of its tier: too many errors, or too slow."""

    code = "target_unfit"


class RouteDrifted(TenureError):
    """The gateway, or the tenant's name, does not do what it should, and could not be brought to it."""

    code = "route_drifted"


class ConfirmationNeeded(TenureError):
    """The operation waits until a person has looked and confirmed."""

    code = "confirmation_needed"


class ApprovalNeeded(TenureError):
    """The operation begins only when a second person has approved its plan, and the approval has not expired."""

    code = "approval_needed"


class PlanStale(TenureError):
    """The digest given to `--apply`, or approved, is not the digest of what would be done now."""

    code = "plan_stale"


class RolledBack(TenureError):
    """The operation was rolled back safely."""

    code = "rolled_back"


class StillRunning(TenureError):
    """The operation goes on elsewhere."""

    code = "still_running"


class TenantLocked(TenureError):
    """The tenant is in another operation, or on legal hold."""

    code = "tenant_locked"


class Interrupted(TenureError):
    """Ctrl-C: the operation stays as it is and can be resumed."""

    code = "interrupted"


class StoreUnavailable(TenureError):
    """A store, the control database or the gateway cannot be reached, or refuses the login."""

    code = "unavailable"
    retryable = True


class StoreRefused(TenureError):
    """A store answered and said no (permissions, missing object, wrong type); a retry changes nothing."""

    code = "store_refused"


class LeaseLost(TenureError):
    """Another holder has taken the step over: whatever this one still wants to do must not happen."""

    code = "lease_lost"


class Cancelled(TenureError):
    """Someone asked for the operation to be cancelled."""

    code = "cancelled"


class DeadlineExceeded(TenureError):
    """Something bounded in time (drain, seal, hold) did not end in time; retrying later may work."""

    code = "deadline_exceeded"
    retryable = True


class FenceRefused(TenureError):
    """The fence in the store was set by a newer holder, or the store is not fenced where it must be."""

    code = "fence_refused"


class EvidenceStale(TenureError):
    """The comparison can no longer be trusted (a feed was interrupted, a server restarted): verify again."""

    code = "evidence_stale"
    retryable = True


class Outpaced(TenureError):
    """The tenant writes faster than its copies can follow, whatever was tried: the move was given up in good time."""

    code = "outpaced"


class DataDiffers(TenureError):
    """Source and target differ and repair did not help."""

    code = "data_differs"


class VaultDamaged(TenureError):
    """Something that is kept in a vault is missing, or is not what was put there: the message names it."""

    code = "vault_damaged"


class BackupUntrusted(TenureError):
    """A backup's manifest is not signed by a key that the estate trusts, or is of another tenant, backup or vault."""

    code = "backup_untrusted"


class BackupTooNew(TenureError):
    """A backup has a form, or a schema, that is newer than what is to read it."""

    code = "backup_too_new"


class KeyUnusable(TenureError):
    """A tenant's data key is destroyed, is not the one that sealed a backup, or cannot be unwrapped."""

    code = "key_unusable"


class CertificateWithheld(TenureError):
    """An erasure has not shown everything that a certificate would say."""

    code = "certificate_withheld"


class CertificateUntrusted(TenureError):
    """What is shown as a certificate was changed, or not signed by anybody who is trusted."""

    code = "certificate_untrusted"


class AuditBroken(TenureError):
    """The audit log is not what was written: entries were changed, removed or added."""

    code = "audit_broken"
