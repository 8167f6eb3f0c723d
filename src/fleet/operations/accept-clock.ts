import { hlcFromWallMs } from '../../hlc/hlc.ts'
import { accepted } from '../../postgres/statement.ts'
import { withConnection } from '../../postgres/postgres.ts'
import { passBarrier } from '../../transaction/barrier.ts'
import { acceptClock } from '../../transaction/clock-acceptance-store.ts'
import { toHoldfastError } from '../../transaction/sql-errors.ts'
import type { AcceptanceCall } from '../clock-acceptances.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'

const answerWithinMs = 10_000
const barrierWithinMs = 30_000

/**
 * Writes down that a shard's clock may pass a decision (C8). Throws `clock_acceptance_refused` when the shard does not refuse it,
 * `shard_fenced` or `node_unavailable`; whichever it was, it may be repeated.
 */
export async function writeAcceptance(supervisor: Supervisor, call: AcceptanceCall): Promise<void> {
  const { topology, shardServers, clock } = supervisor
  const shard = topology.shard(call.shard)
  const primary = nodeOf(shard, shard.primary)
  const statement = acceptClock(call, call, shard.epoch, hlcFromWallMs(clock.wallMs()))
  try {
    await withConnection(shardServers.adminTarget(primary), async (admin) => {
      for (const outcome of await admin.flight([statement], answerWithinMs)) accepted(outcome)
      // One that stood before may be on no follower yet, and neither may one whose wait was cancelled.
      await passBarrier(admin, primary.id, barrierWithinMs)
    })
  } catch (error) {
    throw toHoldfastError(error, { shard: call.shard, transactionId: call.transactionId })
  }
}
