import { present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { ShardName } from '../../directory/topology.ts'
import { type DataStanding, findHeld } from '../../failover/failover.ts'
import { Connection } from '../../postgres/connection.ts'
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
  requireNotHeld(name, shard, found)
}

/** The same of the node that is to be promoted, once it has everything that was ever acknowledged, fences among it (V3). */
export async function requireUnheldOn(admin: Connection, name: ShardName, shard: ShardDocument): Promise<void> {
  requireNotHeld(name, shard, [await readStanding(admin)])
}

async function readStanding(node: Connection): Promise<DataStanding> {
  const { rows } = await node.query<DataStanding & Record<string, unknown>>(
    'select epoch, state from holdfast.shard',
    [],
    answerWithinMs,
  )
  return present(rows[0], 'a founded shard has its row')
}

function requireNotHeld(name: ShardName, { epoch }: ShardDocument, found: readonly DataStanding[]): void {
  const held = findHeld(epoch, found)
  if (held === undefined) return
  const told = `${name} is ${held.state} at epoch ${held.epoch} in its own data, and at epoch ${epoch} in the topology`
  throw new HoldfastError('shard_fenced', told, {
    hint: 'a cutover holds it: run it again, or give it up with: holdfast cutover <environment> --abandon',
    detail: { shard: name, epoch: held.epoch, state: held.state },
  })
}
