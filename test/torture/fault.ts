import { systemClock } from '../../src/base/clock.ts'
import type { Stand } from './stand.ts'
import { shardOf } from './stand.ts'
import type { Below } from './workload.ts'

/** One fault: what it does, how it is undone, and what shows that it happened. One is made for each cell. */
export interface Fault {
  readonly name: string
  /** Tells whether it was seen to happen. */
  inject(scene: Scene): Promise<boolean>
  heal(scene: Scene): Promise<void>
}

export interface Scene {
  readonly stand: Stand
  readonly below: Below
}

const shards = Object.values(shardOf)

export const pickShard = ({ below }: Pick<Scene, 'below'>): string => shards[below(shards.length)] ?? shardOf.left

export function followersOf({ stand: { fleet } }: Pick<Scene, 'stand'>, shard: string): readonly string[] {
  return fleet.nodesOf(shard).filter((id) => id !== fleet.primary(shard).id)
}

export const nothing = () => Promise.resolve()

/** Longer than all clients can stand in a deadlock over two shards, which ends by time: none of them commits for so long. */
const reachedWithinMs = 20_000

/** Again and again for a while, and on until it reached one; how many it reached in all. */
export async function keepReaching(run: () => Promise<number>, times = 20): Promise<number> {
  let reached = 0
  const deadline = systemClock.monotonicMs() + reachedWithinMs
  for (let attempt = 0; attempt < times || (reached === 0 && systemClock.monotonicMs() < deadline); attempt += 1) {
    reached += await run()
    await systemClock.sleep(50)
  }
  return reached
}

const silentMs = 400

/** What came of it within a while. */
export function saidOf(attempt: Promise<unknown>): Promise<'answer' | 'error' | 'nothing'> {
  const said = attempt.then(
    () => 'answer' as const,
    () => 'error' as const,
  )
  return Promise.race([said, systemClock.sleep(silentMs).then(() => 'nothing' as const)])
}
