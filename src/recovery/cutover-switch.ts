import { rm } from 'node:fs/promises'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { CutoverGate } from './cutover.ts'
import type { CutoverFleet } from './cutover-fleet.ts'
import { reopen, toFenced } from './cutover-fleet.ts'
import type { CutoverDecision } from './cutover-journal.ts'
import type { ShardCutover, ShardStanding } from './cutover-plan.ts'
import type { Environment } from './environment.ts'
import { startServer, stopEnvironment } from './environment-servers.ts'
import type { Gates } from './gates.ts'
import type { RecoveryContext } from './recovery.ts'
import * as store from './restore-store.ts'

/** Step 4 of a cutover, as its journal has decided it. Every part of it may have been done before. */

type Switched = Extract<ShardCutover, { kind: 'switch' }>

export async function switchOver(
  context: RecoveryContext,
  fleet: CutoverFleet,
  environment: Environment,
  decision: CutoverDecision,
  gates: Gates<CutoverGate>,
): Promise<void> {
  const { standings, shards } = decision
  const switched = shards.flatMap((one) => (one.kind === 'switch' ? [one] : []))
  await gates.pass('switch', async () => {
    for (const one of switched) {
      await context.onStep('cutover switch', { shard: one.shard })
      if (await isTakenIn(fleet, standingAt(standings, one.shard), one)) continue
      await takeIn(context, fleet, environment, decision, one)
    }
    return { value: undefined, detail: `${switched.length} of ${shards.length} shards` }
  })
  await gates.pass('open', async () => {
    const failures: unknown[] = []
    for (const one of shards) {
      await context.onStep('cutover open', { shard: one.shard })
      // One that cannot be opened, as when its primary is gone for good, keeps no other closed.
      await openOne(fleet, decision, one).catch((error: unknown) => failures.push(error))
    }
    if (failures.length > 0) throw failures[0]
    return { value: undefined, detail: 'every shard takes traffic' }
  })
}

async function openOne(fleet: CutoverFleet, { standings, shards }: CutoverDecision, one: ShardCutover): Promise<void> {
  if (one.kind === 'switch') return fleet.open(one.shard, one.epoch)
  const kept = toFenced(fleet, standingAt(standings, one.shard))
  await withConnection(kept.target, (admin) => store.rememberEpochs(admin, shards))
  await reopen(fleet, kept)
}

/**
 * Whether the fleet has the new history of a shard already, perhaps with later ones. Throws `check_failed` when the shard took
 * traffic since it was fenced: what it acknowledged is not in the environment, so it is not replaced (R9).
 */
async function isTakenIn(fleet: CutoverFleet, fenced: ShardStanding, one: Switched): Promise<boolean> {
  const now = fleet.standing(one.shard)
  if (now.historyId === one.historyId) return true
  const data = now.isAlive
    ? await withConnection(now.primary, (admin) => store.readLineage(admin, one.historyId))
    : undefined
  if (data?.isHere === true) return true
  if (now.epoch === fenced.epoch && data?.state !== 'open') return false
  throw new HoldfastError(
    'check_failed',
    `${one.shard} took traffic at epoch ${data?.epoch ?? now.epoch}, which the cutover does not have`,
    { hint: 'it is left as it is: restore again, with what it acknowledged', detail: { shard: one.shard } },
  )
}

async function takeIn(
  context: RecoveryContext,
  fleet: CutoverFleet,
  environment: Environment,
  { shards, leftOutIds: leftOut }: CutoverDecision,
  one: Switched,
): Promise<void> {
  const place = present(
    environment.shards.find(({ shard }) => shard === one.shard),
    'the environment has the shard',
  )
  const server = await startServer(context, place)
  await withConnection(context.host.adminTarget(server.address), async (admin) => {
    await store.openHistory(admin, { ...one, fork: place.stop, leftOut })
    await store.rememberEpochs(admin, shards)
    await store.dropMarkers(admin)
  })
  await fleet.adopt({ shard: one.shard, epoch: one.epoch, historyId: one.historyId, server })
}

function standingAt(standings: readonly ShardStanding[], name: ShardName): ShardStanding {
  return present(
    standings.find(({ shard }) => shard === name),
    'it stood somewhere',
  )
}

/** What the fleet did not take in of the environment goes. */
export async function retire(
  context: RecoveryContext,
  environment: Environment,
  decision: CutoverDecision,
): Promise<void> {
  const taken = new Set(decision.shards.flatMap(({ kind, shard }) => (kind === 'switch' ? [shard] : [])))
  const left = environment.shards.filter(({ shard }) => !taken.has(shard))
  await stopEnvironment(context, { ...environment, shards: left })
  for (const { dataDir } of left) await rm(dataDir, { recursive: true, force: true })
  for (const { walDir } of environment.shards) await rm(walDir, { recursive: true, force: true })
}
