import type { ShardName } from '../../src/directory/topology.ts'
import { maxHlc } from '../../src/hlc/hlc.ts'
import { judge } from '../../src/reading/judgement.ts'
import type { SnapshotView } from '../../src/reading/snapshot-rounds.ts'
import { findFractures, leastClosed } from '../../src/reading/snapshot-rounds.ts'
import { currentHistory, refOf } from '../../src/session/fork-point.ts'
import { emptyFrontier } from '../../src/session/frontier.ts'
import { lsnBeforeSnapshot } from '../../src/session/session.ts'
import { hlc, lsn } from '../support/session-values.ts'
import type { Oracle } from './session-oracle.ts'
import type { Plant } from './session-plants.ts'
import type { Server, ShardWorld, Shown } from './session-world.ts'
import { shownBy } from './session-world.ts'

/** Reads of the model that ask for nothing of a token: of bounded staleness, and of several shards. */
export interface Stage {
  readonly shards: readonly ShardWorld[]
  readonly oracle: Oracle
  readonly plant: Plant | undefined
}

/** Tells whether it was answered. */
export function readStale({ oracle, plant }: Stage, world: ShardWorld, server: Server, age: number): boolean {
  const bound = hlc(world.clock > BigInt(age) ? world.clock - BigInt(age) : 1n)
  const shown = shownBy(server)
  const byGreatest = plant === 'stale by the greatest timestamp that is shown'
  const { histories, visible, closedTimestamp, greatestTimestamp } = shown
  const proof = {
    shard: world.name,
    follows: !server.isPrimary,
    replayed: lsn(server.replayed),
    positionAfter: lsn(server.received),
    histories,
    placements: new Map(),
    visible,
    closedTimestamp: byGreatest ? greatestTimestamp : closedTimestamp,
    greatestTimestamp,
  }
  const nothing = { frontier: emptyFrontier, routed: undefined } as const
  const demand = { ...nothing, shard: world.name, level: 'session', closedAtLeast: bound } as const
  const positionBefore = lsnBeforeSnapshot({ lsn: lsn(server.replayed), readAt: 0, snapshotAt: 1 })
  // Whoever asks knows of no newer history than the node does.
  const verdict = judge(demand, refOf(currentHistory(histories)), { proof, positionBefore })
  if (verdict.kind !== 'proven') return false
  oracle.mustShowAcknowledged(`stale shows what is at or below ${bound}`, world, shown, bound)
  return true
}

const roundsMax = 3

/** The rounds of `reading/snapshot.ts`; others commit and settle while shards are opened. Tells whether it was whole. */
export function takeSnapshot(stage: Stage, disturb: (turn: number) => void): boolean {
  const shown = new Map<ShardWorld, Shown>()
  for (const [index, world] of stage.shards.entries()) {
    if (index > 0) disturb(0)
    shown.set(world, shownBy(world.primary))
  }
  for (let rounds = 1; ; rounds += 1) {
    const fractures = fracturesOf(stage, shown)
    if (fractures.size === 0) break
    if (rounds === roundsMax) return false
    for (const world of stage.shards.filter(({ name }) => fractures.has(name))) {
      for (const { transactionId } of fractures.get(world.name) ?? []) world.settle(transactionId)
      disturb(rounds)
      shown.set(world, shownBy(world.primary))
    }
  }
  stage.oracle.mustBeWhole(shown)
  return true
}

function fracturesOf({ oracle, plant }: Stage, shown: ReadonlyMap<ShardWorld, Shown>) {
  const closed = [...shown.values()].map(({ closedTimestamp }) => closedTimestamp)
  const byGreatest = plant === 'a snapshot is complete up to what one of its shards has closed'
  const above = byGreatest ? closed.reduce(maxHlc) : leastClosed(closed)
  const blind = plant === 'snapshots of several shards are not compared'
  const views = new Map<ShardName, SnapshotView>()
  for (const [{ name }, { visible, closedTimestamp }] of shown) {
    const globals = [...visible].flatMap((id) => oracle.globals.get(id) ?? [])
    const listed = globals.filter(({ commitTimestamp }) => commitTimestamp > above)
    views.set(name, { closedTimestamp, shown: blind ? [] : listed })
  }
  return findFractures(views)
}
