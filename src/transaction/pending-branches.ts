import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
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

  /** Settles those of one shard, once. Throws `write_lost`, or `node_unavailable` where one may be decided and its home is silent. */
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
    const resolution = await pushBranch(this.#environment, shard, transactionId)
    if (resolution.kind === 'settled') return
    const detail = { shard, transactionId }
    if (resolution.kind === 'absent') {
      throw new HoldfastError('write_lost', `the branch of ${transactionId} is not on ${shard}`, { detail })
    }
    throw new HoldfastError('node_unavailable', `${transactionId} is not settled on ${shard}: ${resolution.why}`, {
      detail,
    })
  }
}
