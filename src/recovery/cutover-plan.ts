import { HoldfastError } from '../base/errors.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import { nameOf, stampedId } from '../archive/redo-transaction.ts'
import { readLeftOut } from './cut.ts'
import type { TransactionName } from './history.ts'
import type { Delivery } from './invariant-check.ts'
import type { HistoryPlan } from './restore-plan.ts'

/**
 * What a cutover does with each shard. One whose history loses nothing goes on as it is, at a new epoch; the others go
 * on in the environment's servers, under a new history.
 */
export type ShardCutover =
  | { readonly kind: 'keep'; readonly shard: ShardName; readonly epoch: Epoch }
  | {
      readonly kind: 'switch'
      readonly shard: ShardName
      readonly epoch: Epoch
      readonly historyId: HistoryId
    }

/** How the fleet has a shard. */
export interface ShardStanding {
  readonly shard: ShardName
  readonly epoch: Epoch
  /** False when none of its nodes runs: there is nobody to fence, and nothing more to redo than its archive has. */
  readonly isAlive: boolean
}

/**
 * Two epochs a shard: the first closes what was, the second opens what will be. So nobody who knows only the fence can be
 * taken for one who knows the new history.
 */
export function fenceEpoch({ epoch }: ShardStanding): Epoch {
  return (epoch + 1) as Epoch
}

export function planCutover(
  plan: HistoryPlan,
  standings: readonly ShardStanding[],
  newHistoryId: () => HistoryId,
): ShardCutover[] {
  return standings.map((standing) => {
    const { shard, epoch, isAlive } = standing
    const loses = (plan.cut.shards.get(shard)?.leftOut ?? 0) > 0
    return isAlive && !loses
      ? { kind: 'keep', shard, epoch: fenceEpoch(standing) }
      : { kind: 'switch', shard, epoch: (epoch + 2) as Epoch, historyId: newHistoryId() }
  })
}

/**
 * R9: what is left out must be what was asked for. An environment that ends at its target leaves out everything behind it,
 * which is a loss that a person has to accept by word.
 */
export async function requireNoLoss(plan: HistoryPlan, acceptLoss: boolean): Promise<void> {
  if (plan.exclusion !== null || acceptLoss) return
  const { names } = await leftOutOf(plan)
  if (names.length === 0) return
  throw new HoldfastError('check_failed', `the cutover would lose ${names.length} transactions behind the target`, {
    hint: 'restore without the ones that were wrong, or accept the loss',
    detail: { lost: names.slice(0, 100) },
  })
}

/** What is no longer in history on any shard, each once; commits of the platform's own aside. */
export interface LeftOut {
  readonly names: readonly TransactionName[]
  /** Of those with an id, which is what tokens carry. */
  readonly ids: readonly TransactionId[]
}

export async function leftOutOf({ shards, cut }: HistoryPlan): Promise<LeftOut> {
  const names = new Set<TransactionName>()
  const ids = new Set<TransactionId>()
  for (const [shard, { history }] of shards) {
    if (cut.shards.get(shard)?.leftOut === 0) continue
    for await (const transaction of readLeftOut(history, cut.wanted)) {
      names.add(nameOf(transaction))
      const id = stampedId(transaction.identity)
      if (id !== null) ids.add(id)
    }
  }
  return { names: [...names], ids: [...ids] }
}

/** An effect that left, whose cause is no longer in history. */
export interface Compensation {
  readonly eventId: string
  readonly transactionId: string
  readonly tenant: string
  readonly name: string
  /** `possibly`: it was sent and no acceptance came back, so only its receiver knows. */
  readonly delivered: 'certainly' | 'possibly'
}

export function compensationsFor(leftOut: readonly TransactionId[], deliveries: readonly Delivery[]): Compensation[] {
  const gone = new Set<string>(leftOut)
  const found = new Map<string, Compensation>()
  for (const { event_id: eventId, transaction_id: transactionId, tenant, name, state } of deliveries) {
    if (!gone.has(transactionId) || state === 'failed' || found.get(eventId)?.delivered === 'certainly') continue
    const delivered = state === 'delivered' ? 'certainly' : 'possibly'
    found.set(eventId, { eventId, transactionId, tenant, name, delivered })
  }
  return [...found.values()]
}
