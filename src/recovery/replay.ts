import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { installSchema } from '../postgres/schema.ts'
import type { ServerAddress } from '../postgres/server/server-host.ts'
import { commitPrepared, rollbackPrepared } from '../transaction/decision-store.ts'
import { parseGid } from '../transaction/gid.ts'
import { absentBehind, committedBehind, decideBranch, reachedBy } from './cut.ts'
import type { RecoveryContext } from './recovery.ts'
import { redo } from './redo.ts'
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
export async function decideAndRedo(
  context: RecoveryContext,
  plan: HistoryPlan,
  servers: Servers,
): Promise<{ detail: string; redone: ReadonlyMap<ShardName, number> }> {
  const { host, fleet, onStep } = context
  const { wanted } = plan.cut
  const decide = await readDecisions(context, plan, servers)
  let [committed, rolledBack] = [0, 0]
  const redone = new Map<ShardName, number>()
  const left: string[] = []
  for (const [shard, { stop, history, shapes }] of plan.shards) {
    await withConnection(host.adminTarget(serverOf(servers, shard).address), async (admin) => {
      await onStep('restore settle', { shard })
      const settled = await settleRestored(admin, fleet, shard, decide)
      committed += settled.committed
      rolledBack += settled.rolledBack
      await onStep('restore redo', { shard })
      await store.keepRedo(admin)
      const done = await redo(admin, absentBehind(stop, history, wanted), shapes, context.migrationFiles)
      redone.set(shard, done.transactions)
      if (done.isUpgrade) await installRelease(context, serverOf(servers, shard).address)
      // What was drawn before the stop, the sequence of the restored server has been drawn from.
      const columns = await moveSequences(admin, () => history.read(reachedBy(stop)), shapes)
      for (const column of columns) left.push(`${shard} ${column}`)
      await store.moveClock(admin, plan.clock)
    })
  }
  const sum = [...redone.values()].reduce((all, one) => all + one, 0)
  const done = `${committed} branches committed, ${rolledBack} rolled back, ${sum} transactions redone`
  const detail = left.length === 0 ? done : `${done}; sequences to be moved by hand: those of ${left.join(', ')}`
  return { detail, redone }
}

/** R10: functions and rules for the tables as they are now, by a session that has not the settings of a redo. */
async function installRelease({ host, release }: RecoveryContext, address: ServerAddress): Promise<void> {
  await withConnection(host.adminTarget(address), (admin) => installSchema(admin, release))
}

/** Over what is prepared on any shard: by what any restored one holds, and by what the streams show behind the stops. */
async function readDecisions(
  { host, fleet }: RecoveryContext,
  plan: HistoryPlan,
  servers: Servers,
): Promise<(id: TransactionId) => Hlc | null> {
  const ids = new Set<TransactionId>()
  for (const shard of plan.shards.keys()) {
    const gids = await withConnection(host.adminTarget(serverOf(servers, shard).address), store.readPreparedGids)
    for (const gid of gids) {
      const branch = parseGid(gid, fleet, shard)
      if (branch !== undefined) ids.add(branch.transactionId)
    }
  }
  const restored = new Map<TransactionId, Hlc | null>()
  const committed = new Map<TransactionId, Hlc>()
  for (const [shard, { stop, history }] of plan.shards) {
    const target = host.adminTarget(serverOf(servers, shard).address)
    const found = await withConnection(target, (admin) => store.readDecisions(admin, [...ids]))
    for (const [id, timestamp] of found) restored.set(id, timestamp)
    for (const [id, timestamp] of await committedBehind(stop, history, plan.cut.wanted, ids))
      committed.set(id, timestamp)
  }
  return (id) => decideBranch(id, committed, restored)
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
