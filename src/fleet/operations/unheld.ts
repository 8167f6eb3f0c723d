import { present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Epoch, ShardName } from '../../directory/topology.ts'
import { type DataStanding, findHeld } from '../../failover/failover.ts'
import { Connection } from '../../postgres/connection.ts'
import type { CutoverLeft } from '../../recovery/cutovers-left.ts'
import { cutoversLeft } from '../../recovery/cutovers-left.ts'
import type { Supervisor } from '../supervisor.ts'
import type { ShardDocument } from '../topology-store.ts'

/** V8: whether a shard is held, as its own rows say. The topology does not know: a cutover tells it at the end. */

const answerWithinMs = 2_000

/**
 * Asks every node that runs, before anything is touched: of a shard that is failed over its primary may be the one that does not
 * answer. Throws `shard_fenced`.
 */
export async function requireUnheld(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { servers, shardServers } = supervisor
  const running = shard.nodes.filter(({ id }) => servers.isRunning(id))
  const answers = await Promise.allSettled(
    running.map(async (node) => {
      const admin = await Connection.connect(shardServers.adminTarget(node), answerWithinMs)
      try {
        return await readStanding(admin)
      } finally {
        admin.release()
      }
    }),
  )
  // Who does not answer is no news: a promotion that nobody is left for is refused for that.
  const found = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
  await requireNotHeld(supervisor, name, shard, found)
}

/**
 * The same of the node that is to be promoted, once it has everything that was ever acknowledged, fences among it (V3). Gives the
 * epoch that the promotion follows.
 */
export async function requireUnheldOn(
  supervisor: Supervisor,
  admin: Connection,
  name: ShardName,
  shard: ShardDocument,
): Promise<Epoch> {
  const standing = await readStanding(admin)
  await requireNotHeld(supervisor, name, shard, [standing])
  return standing.epoch > shard.epoch ? standing.epoch : shard.epoch
}

async function readStanding(node: Connection): Promise<DataStanding> {
  const { rows } = await node.query<DataStanding & Record<string, unknown>>(
    'select epoch, state from holdfast.shard',
    [],
    answerWithinMs,
  )
  return present(rows[0], 'a founded shard has its row')
}

/**
 * A cutover that was broken off before it decided has replaced nothing, and one that has decided to keep a shard never will: where the
 * primary is gone for good, a promotion behind its fence is the only way on.
 */
async function requireNotHeld(
  supervisor: Supervisor,
  name: ShardName,
  { epoch }: ShardDocument,
  found: readonly DataStanding[],
): Promise<void> {
  const held = findHeld(epoch, found)
  if (held === undefined) return
  // No cutover runs while this one has its turn: what they say was left.
  const holding = await cutoversLeft(supervisor.home.environmentsDir, name)
  if (holding.length > 0 && holding.every(({ journal }) => !replaces(journal, name))) return
  const told = `${name} is ${held.state} at epoch ${held.epoch} in its own data, and at epoch ${epoch} in the topology`
  throw new HoldfastError('shard_fenced', told, {
    hint: holding.length > 0 ? 'a cutover holds it: run it again' : hintWithoutCutover(held),
    detail: { shard: name, epoch: held.epoch, state: held.state },
  })
}

/** An upgrade that was broken off leaves a shard open at an epoch that the topology was not told of (U6). */
function hintWithoutCutover({ state }: DataStanding): string {
  return state === 'open'
    ? 'no cutover holds it: start the fleet again, which follows the epoch of its data'
    : 'no cutover of this fleet holds it: open it with what closed it'
}

function replaces(journal: CutoverLeft['journal'], name: ShardName): boolean {
  return journal.state !== 'fencing' && journal.shards.some(({ kind, shard }) => shard === name && kind === 'switch')
}
