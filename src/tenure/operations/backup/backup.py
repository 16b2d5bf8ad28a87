"""The steps of `tenure backup create`: preflight, capture, verify, copy; and how one is taken back.

Before the manifest stands, an abort leaves nothing: not in the stores, not at the gate, not in the vault. From then on
there is a good backup, and whatever becomes of the rest of the operation, it is kept: only a prune deletes backups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tenure.engine.context import StepContext
from tenure.engine.spec import Done, OperationSpec, StepOutcome, StepSpec
from tenure.errors import LeaseLost, NotAllowed, VaultDamaged
from tenure.model.backup import Depth
from tenure.model.names import TenantId
from tenure.model.operation import OperationState
from tenure.operations.backup.observe import observe, tier_backup
from tenure.operations.backup.taking import Order, Taking, collect
from tenure.operations.deps import Deps
from tenure.operations.observe import cell_observation, prices_of
from tenure.plan.backup import backup_cost, plan_backup
from tenure.stores.vault.contract import Backup, BackupId

SAMPLE: Final = 0.05
"""The share of its chunks that is read back where not everything is."""
QUIET_S: Final = 24 * 3600.0
"""After how long without a word of its writer an unfinished backup counts as left behind."""
CAPTURES: Final = 3


class TenantBackup:
    """The steps of one backup."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def spec(self, *, copies: bool) -> OperationSpec:
        """With `copies` as the operation's request names a second region."""
        copying = (StepSpec(name="copy", run=self.copy, phase="copying to the second region"),)
        return OperationSpec(
            kind="backup",
            steps=(
                StepSpec(name="preflight", run=self.preflight, phase="preflight"),
                StepSpec(name="capture", run=self.capture, phase="starting", max_attempts=CAPTURES),
                StepSpec(name="verify", run=self.verify, phase="verifying"),
                *(copying if copies else ()),
            ),
            abort=self.abort,
            ends_in=OperationState.SUCCEEDED,
        )

    # -- steps -------------------------------------------------------------------------------------------------------

    def preflight(self, ctx: StepContext) -> StepOutcome:
        """Look again, under the operation's lock on the tenant, at everything the plan was made from."""
        order = Order.of(ctx)
        plan = plan_backup(observe(self._deps, order.tenant))
        if plan.refusals:
            named = tuple(f"{f.where}: {f.message}; {f.cure}" for f in plan.refusals)
            raise NotAllowed(
                f"the backup of {order.tenant} is refused: {'. '.join(named)}",
                findings=named,
                hint="mend what the findings name and plan again",
            )
        if (plan.cell, plan.keeping.region) != (ctx.operation.request["from"], order.region):
            raise NotAllowed(
                f"{order.tenant} is served by {plan.cell} now, not by {ctx.operation.request['from']}",
                hint=f"tenure backup create {order.tenant} --plan",
            )
        ctx.remember(
            sizes={s.store: s.size_bytes for s in plan.stores},
            left_out={s.store: s.why for s in plan.left_out},
        )
        return Done(result={"findings": len(plan.findings)})

    def capture(self, ctx: StepContext) -> StepOutcome:
        """Everything up to the manifest. A repeated attempt first finds out what the last one left."""
        vaults, sealing = self._deps.backups()
        taking = Taking(self._deps, ctx, vaults.vault(Order.of(ctx).region), sealing)
        backup = taking.run()
        return Done(result={"backup": backup.id, "size_bytes": backup.size_bytes})

    def verify(self, ctx: StepContext) -> StepOutcome:
        """Read the backup back from the vault, with the key: a sample, or all of it where the tier asks for it."""
        region = Order.of(ctx).region
        seen = self._verified(ctx, region, self._backup(ctx, region))
        ctx.reach("verify.noted")
        self._cost(ctx)
        return Done(result=seen)

    def copy(self, ctx: StepContext) -> StepOutcome:
        """Copy it, sealed as it is, into the second region's vault, and verify it there."""
        vaults, sealing = self._deps.backups()
        order = Order.of(ctx)
        assert order.copy_to is not None

        def shown(chunks: int, size_bytes: int) -> None:
            ctx.check()
            done[0] += size_bytes
            ctx.progress(f"copy to {order.copy_to}", done[0], backup.size_bytes, "bytes", chunks=chunks)

        done = [0]
        backup = self._backup(ctx, order.region)
        target = vaults.vault(order.copy_to)
        made = sealing.copy(
            vaults.vault(order.region),
            backup,
            target,
            tenant=order.tenant,
            lock=order.lock,
            progress=shown,
        )
        ctx.reach("copy.stored")
        self._deps.registry.backups.store(
            ctx.lease,
            backup.id,
            order.copy_to,
            stored_at=made.backup.stored_at,
            contents=made.backup.contents,
            locked_until=made.backup.lock.until if made.backup.lock is not None else None,
        )
        ctx.reach("copy.noted")
        seen = self._verified(ctx, order.copy_to, made.backup)
        ctx.remember(copied_bytes=made.put_bytes)
        ctx.record_result(copied_to=order.copy_to, copied_bytes=made.put_bytes)
        ctx.event("backup_copied", backup=backup.id, region=order.copy_to, size_bytes=made.put_bytes)
        self._cost(ctx)
        return Done(result={"region": order.copy_to, **seen})

    # -- abort -------------------------------------------------------------------------------------------------------

    def abort(self, ctx: StepContext) -> None:
        """The tenant goes on as before. Without a manifest nothing stays of the backup; with one it stays."""
        vaults, sealing = self._deps.backups()
        order = Order.of(ctx)
        taking = Taking(self._deps, ctx, vaults.vault(order.region), sealing)
        try:
            taking.clean_up()
            ctx.reach("abort.open")
            standing = taking.standing()
            if standing is None:
                taking.forget()
        finally:
            taking.close()
        if order.copy_to is not None:
            self._forget_copy(ctx, order)
        ctx.reach("abort.forgotten")
        backup = ctx.operation.data.get("backup")
        if standing is not None:
            ctx.event("backup_kept", backup=standing.id, region=order.region)
            return
        if backup is not None:
            self._deps.registry.backups.abandon(ctx.lease, backup)
            collect(ctx, vaults.vault(order.region), order.tenant, quiet_s=QUIET_S)
        ctx.event("cleaned_up", backup=backup)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _backup(self, ctx: StepContext, region: str) -> Backup:
        backup, tenant = str(ctx.operation.data["backup"]), TenantId(str(ctx.operation.tenant))
        vaults, _ = self._deps.backups()
        for there in vaults.vault(region).shelf(tenant).complete:
            if there.id == backup:
                return there
        raise VaultDamaged(f"the vault of {region} does not have backup {backup} of {tenant} any more")

    def _verified(self, ctx: StepContext, region: str, backup: Backup) -> Mapping[str, Any]:
        """Verify it there and note what was found. Raises `VaultDamaged`, which names it, if it is not whole."""
        vaults, sealing = self._deps.backups()
        _, settings = tier_backup(self._deps, backup.tenant)
        depth = Depth.FULL if settings is not None and settings.verify == "full" else Depth.SAMPLE
        seen = sealing.verify(
            vaults.vault(region),
            backup,
            tenant=backup.tenant,
            share=None if depth is Depth.FULL else SAMPLE,
            progress=lambda chunks, size_bytes: ctx.check(),
        )
        problems = [problem.message for problem in seen.problems]
        self._deps.registry.backups.verified(ctx.lease, backup.id, region, depth=depth, problems=problems)
        if problems:
            raise VaultDamaged(
                f"backup {backup.id} in the vault of {region} is not whole: {'; '.join(problems[:3])}",
                hint=f"tenure backup verify {backup.id} --full says everything",
            )
        return {"chunks": seen.chunks_of, "looked_at": seen.chunks_looked_at, "depth": str(depth)}

    def _forget_copy(self, ctx: StepContext, order: Order) -> None:
        backup = ctx.operation.data.get("backup")
        if backup is None or order.copy_to is None:
            return
        vaults, _ = self._deps.backups()
        try:
            vaults.vault(order.copy_to).resume(order.tenant, BackupId(backup)).abandon()
        except LeaseLost:
            return
        ctx.event("copy_given_up", backup=backup, region=order.copy_to)

    def _cost(self, ctx: StepContext) -> None:
        operation = ctx.operation
        began = operation.started_at or operation.created_at
        result = operation.result or {}
        cost = backup_cost(
            cell_observation(self._deps, operation.request["from"]),
            prices_of(self._deps),
            seconds=(self._deps.registry.backups.now() - began).total_seconds(),
            sent_bytes=int(result.get("sent_bytes", 0)),
            copied_bytes=int(operation.data.get("copied_bytes", 0)),
        )
        ctx.record_cost(**cost.as_dict())
