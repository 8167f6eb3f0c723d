import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { installSchema } from '../postgres/schema.ts'
import type { ServerAddress } from '../postgres/server/server-host.ts'
import { commitPrepared, rollbackPrepared } from '../transaction/decision-store.ts'
import { parseGid } from '../transaction/gid.ts'
import type { RestoredDecisions } from './cut.ts'
import { decideBranch } from './cut.ts'
import type { RecoveryContext } from './recovery.ts'
import { redo } from './redo.ts'
import { isUpgrade } from './redo-migration.ts'
import type { HistoryPlan } from './restore-plan.ts'
import type { Servers } from './restore-shard.ts'
import { serverOf } from './restore-shard.ts'
import * as store from './restore-store.ts'
import { moveSequences } from './sequences.ts'

/**
 * What PostgreSQL's own replay cannot do: decide the prepared branches, redo what lies behind the stop, move clocks and
 * sequences past everything that was seen. Every part of it is done at most once, so it can be run again: after a
 * crash, and at a cutover with what came since.
 */
export async function decideAndRedo(context: RecoveryContext, plan: HistoryPlan, servers: Servers): Promise<string> {
  const { host, fleet, onStep } = context
  const restored = await readRestoredDecisions(context, plan, servers)
  let [committed, rolledBack, redone] = [0, 0, 0]
  const left: string[] = []
  for (const [shard, one] of plan.shards) {
    await withConnection(host.adminTarget(serverOf(servers, shard).address), async (admin) => {
      await onStep('restore settle', { shard })
      const settled = await settleRestored(admin, fleet, shard, (id) => decideBranch(id, plan.cut, restored))
      committed += settled.committed
      rolledBack += settled.rolledBack
      await onStep('restore redo', { shard })
      await store.keepRedo(admin)
      redone += await redo(admin, one.absent, one.shapes, context.migrationFiles)
      if (one.absent.some(isUpgrade)) await installRelease(context, serverOf(servers, shard).address)
      for (const column of await moveSequences(admin, one.transactions, one.shapes)) left.push(`${shard} ${column}`)
      await store.moveClock(admin, plan.clock)
    })
  }
  const done = `${committed} branches committed, ${rolledBack} rolled back, ${redone} transactions redone`
  return left.length === 0 ? done : `${done}; sequences to be moved by hand: those of ${left.join(', ')}`
}

/** R10: functions and rules for the tables as they are now, by a session that has not the settings of a redo. */
async function installRelease({ host, release }: RecoveryContext, address: ServerAddress): Promise<void> {
  await withConnection(host.adminTarget(address), (admin) => installSchema(admin, release))
}

/** The decisions that any restored shard holds over what is prepared on any. */
async function readRestoredDecisions(
  { host, fleet }: RecoveryContext,
  plan: HistoryPlan,
  servers: Servers,
): Promise<RestoredDecisions> {
  const ids = new Set<TransactionId>()
  for (const shard of plan.shards.keys()) {
    const gids = await withConnection(host.adminTarget(serverOf(servers, shard).address), store.readPreparedGids)
    for (const gid of gids) {
      const branch = parseGid(gid, fleet, shard)
      if (branch !== undefined) ids.add(branch.transactionId)
    }
  }
  const decisions = new Map<TransactionId, Hlc | null>()
  for (const shard of plan.shards.keys()) {
    const target = host.adminTarget(serverOf(servers, shard).address)
    const found = await withConnection(target, (admin) => store.readDecisions(admin, [...ids]))
    for (const [id, timestamp] of found) decisions.set(id, timestamp)
  }
  return decisions
}

/** R3. A branch whose name says nothing is left as it is, for the check to tell. */
async function settleRestored(
  admin: Connection,
  fleet: string,
  shard: ShardName,
  decide: (id: TransactionId) => Hlc | null,
): Promise<{ committed: number; rolledBack: number }> {
  const counts = { committed: 0, rolledBack: 0 }
  for (const gid of await store.readPreparedGids(admin)) {
    const branch = parseGid(gid, fleet, shard)
    if (branch === undefined) continue
    const timestamp = decide(branch.transactionId)
    await admin.query((timestamp === null ? rollbackPrepared(gid) : commitPrepared(gid)).text)
    if (timestamp === null) counts.rolledBack++
    else {
      await store.recordDecisionOfBranch(admin, branch.transactionId, timestamp)
      counts.committed++
    }
  }
  return counts
}
