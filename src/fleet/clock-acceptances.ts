import { z } from 'zod'
import { formatWallMs } from '../base/clock.ts'
import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatHlc, parseHlc } from '../hlc/hlc.ts'
import { acceptClock, listAcceptances } from '../transaction/clock-acceptance.ts'
import type { AcceptedBy, AcceptedDecision, ClockAcceptance } from '../transaction/clock-acceptance-store.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import type { AcceptClockRequest, ClockAcceptanceView } from './operations-api.ts'

/**
 * Clocks that a person accepts (C8). A gateway gathers the evidence and has no right to more; the supervisor, whom its own user
 * alone reaches, writes it down as the administrator of the shard.
 */

const hlc = z.string().transform(parseHlc)

/** How the one asks the other. */
export const acceptanceForm = z.object({
  shard: z.string().transform((name) => name as ShardName),
  transactionId: z.uuid().transform((id) => id as TransactionId),
  gid: z.string(),
  home: z.string().transform((name) => name as ShardName),
  homeEpoch: z.int().transform((epoch) => epoch as Epoch),
  commitTimestamp: hlc,
  walls: z.record(z.string(), hlc).transform((walls) => new Map(Object.entries(walls) as [ShardName, Hlc][])),
  actor: z.string(),
  reason: z.string(),
})
export type AcceptanceCall = z.output<typeof acceptanceForm>

export async function acceptClockOf(
  environment: TransactionEnvironment,
  { shard: name, actor, reason }: AcceptClockRequest,
  ask: (params: z.input<typeof acceptanceForm>) => Promise<unknown>,
): Promise<readonly ClockAcceptanceView[]> {
  const shard = name as ShardName
  const by = { actor, reason }
  const accepted = await acceptClock(environment, shard, by, (decision) => ask(callOf(shard, decision, by)))
  return accepted.map((one) => viewOf(shard, one))
}

function callOf(shard: ShardName, decision: AcceptedDecision, by: AcceptedBy): z.input<typeof acceptanceForm> {
  const { commitTimestamp, walls } = decision
  return { ...decision, ...by, shard, commitTimestamp: formatHlc(commitTimestamp), walls: wallsInText(walls) }
}

/** The last one first. Throws `node_unavailable`: a list without one shard would look whole. */
export async function acceptanceViews(environment: TransactionEnvironment): Promise<ClockAcceptanceView[]> {
  const shards = [...environment.topology.current().shards.keys()]
  const views = await Promise.all(shards.map((shard) => viewsOn(environment, shard)))
  return views.flat().toSorted((a, b) => b.acceptedAt.localeCompare(a.acceptedAt))
}

async function viewsOn(environment: TransactionEnvironment, shard: ShardName): Promise<ClockAcceptanceView[]> {
  return (await listAcceptances(environment, shard)).map((one) => viewOf(shard, one))
}

function viewOf(shard: ShardName, row: ClockAcceptance): ClockAcceptanceView {
  const { transactionId, home, maxClockOffsetMs, actor, reason } = row
  return {
    shard,
    transactionId,
    home,
    clockBefore: formatHlc(row.clockBefore),
    commitTimestamp: formatHlc(row.commitTimestamp),
    wall: formatHlc(row.wall),
    witness: formatHlc(row.witness),
    walls: wallsInText(row.walls),
    maxClockOffsetMs,
    actor,
    reason,
    acceptedAt: formatWallMs(row.acceptedAtMs),
  }
}

function wallsInText(walls: ReadonlyMap<ShardName, Hlc>): Record<string, string> {
  return Object.fromEntries([...walls].map(([shard, wall]) => [shard, formatHlc(wall)]))
}
