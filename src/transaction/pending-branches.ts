import { unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryOf } from './environment.ts'
import { pushBranch } from './in-doubt.ts'
import { settleDecided } from './settle-decided.ts'
import type { TransactRequest } from './transaction.ts'

/** Branches of the caller's own past: what it was told is committed must be there when it looks. */
export class PendingBranches {
  readonly #environment: TransactionEnvironment
  readonly #request: Pick<TransactRequest, 'pending' | 'pendingForgotten'>
  readonly #settling = new Map<ShardName, Promise<unknown>>()

  constructor(environment: TransactionEnvironment, request: Pick<TransactRequest, 'pending' | 'pendingForgotten'>) {
    this.#environment = environment
    this.#request = request
  }

  /** Settles those of one shard, once. Throws `write_lost`, or `node_unavailable` where that is not known, or one may be decided and its home is silent. */
  settle(shard: ShardName): Promise<unknown> {
    const known = this.#settling.get(shard)
    if (known !== undefined) return known
    const pending = (this.#request.pending ?? []).filter((branch) => branch.shard === shard)
    const settling = Promise.all([
      ...pending.map(({ transactionId }) => this.#settleOne(shard, transactionId)),
      ...(this.#request.pendingForgotten?.includes(shard) ? [settleDecided(this.#environment, shard)] : []),
    ])
    this.#settling.set(shard, settling)
    return settling
  }

  async #settleOne(shard: ShardName, transactionId: TransactionId): Promise<void> {
    const found = await findDecided(this.#environment, shard, transactionId)
    if (found.kind === 'visible') return
    const detail = { shard, transactionId }
    if (found.kind === 'lost') {
      throw new HoldfastError('write_lost', `the branch of ${transactionId} is not on ${shard}: ${found.why}`, {
        detail,
      })
    }
    throw new HoldfastError('node_unavailable', `${transactionId} is not settled on ${shard}: ${found.why}`, { detail })
  }
}

/** What became of a branch that somebody was told is decided. */
type Found =
  | { readonly kind: 'visible' }
  | { readonly kind: 'prepared'; readonly why: string }
  /** It is not in the history that the shard has by now, or its home has lost the decision. */
  | { readonly kind: 'lost'; readonly why: string }
  | { readonly kind: 'silent'; readonly why: string }

/**
 * Looks for it on the primary of its shard, and settles it where that is possible. Only a primary can say that it is lost: throws
 * `node_unavailable` where no barrier passes on the one that did not have it (B3).
 */
async function findDecided(
  environment: TransactionEnvironment,
  shard: ShardName,
  transactionId: TransactionId,
): Promise<Found> {
  const asked = primaryOf(environment, shard).id
  const pushed = await pushBranch(environment, shard, transactionId)
  switch (pushed.kind) {
    case 'settled':
      if (pushed.outcome === 'COMMITTED') return { kind: 'visible' }
      return { kind: 'lost', why: 'its home does not have the decision any more, and it was rolled back' }
    case 'absent':
      await environment.barriers.pass(shard, asked)
      return { kind: 'lost', why: 'neither visible nor prepared' }
    case 'left':
    case 'needs person':
      return { kind: 'prepared', why: pushed.why }
    case 'silent':
      return pushed
    default:
      return unreachable(pushed)
  }
}
