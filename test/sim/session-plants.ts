import { currentHistory } from '../../src/session/fork-point.ts'
import type { Frontier } from '../../src/session/frontier.ts'
import type { NodeEvidence, Requirement } from '../../src/session/proof.ts'

/** Faults to plant in the model of sessions; it must find each of them, else it proves nothing. */
export const plants = [
  'HZ-T1: replay position read inside the snapshot',
  'HZ-T1: replay position taken as what a read has shown',
  'HZ-X4: branches not listed, a position from the prepare instead',
  'HZ-T3: no history of our own',
  'HZ-T3: the history is checked last',
  'HZ-T3: a key that is used again names a branch that is gone',
  'HZ-T5: only the last branch is kept',
  'HZ-C1: closed too early',
  'HZ-S4: a primary is trusted with what followers showed',
  'HZ-T4: causal by positions',
  'S2: a join keeps one side',
  'S6: what the process of another node has told',
  'S6: what is remembered outlives its process',
  'R6: what was received bounds what is shown',
  'S7: the last id stands for what was read after it',
  'S11: a left-out transaction is honoured past the fork',
  'S11: an older history falls out in silence',
  'S11: a key that is used again drops a branch in silence',
  'S4: the history row of a cutover is written after the redo',
  'R7: strong does not settle what was decided',
  'R7: strong without a barrier',
  'stale by the greatest timestamp that is shown',
  'snapshots of several shards are not compared',
  'a snapshot is complete up to what one of its shards has closed',
] as const
export type Plant = (typeof plants)[number]

export function mapHistories(
  frontier: Frontier,
  change: <T extends { lastTransactionIds: readonly unknown[]; pending: readonly unknown[] }>(history: T) => T,
): Frontier {
  const shards = [...frontier.shards].map(
    ([name, shard]) => [name, { ...shard, histories: shard.histories.map(change) }] as const,
  )
  return { ...frontier, shards: new Map(shards) }
}

export function newestOnly(frontier: Frontier): Frontier {
  const shards = [...frontier.shards].map(
    ([name, shard]) => [name, { ...shard, histories: shard.histories.slice(0, 1), historiesForgotten: false }] as const,
  )
  return { ...frontier, shards: new Map(shards) }
}

/** Position, ids and timestamps of every history held against the one that the node has: whatever they say is enough. */
export function asIfCurrent(requirement: Requirement, { histories }: NodeEvidence): Requirement {
  const { frontier, shard } = requirement
  const known = frontier.shards.get(shard)
  if (known === undefined) return requirement
  const { historyId, epoch } = currentHistory(histories)
  const renamed = known.histories.map((history) => ({ ...history, historyId, epoch }))
  const shards = new Map(frontier.shards).set(shard, { ...known, histories: renamed, historiesForgotten: false })
  return { ...requirement, frontier: { ...frontier, shards } }
}
