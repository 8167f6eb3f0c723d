import { createHash } from 'node:crypto'
import { HoldfastError } from '../base/errors.ts'
import { endsWithin } from '../base/within.ts'
import type { ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import { lsnZero } from '../postgres/lsn.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryOf, shardOf } from './environment.ts'
import { findBranch } from './in-doubt.ts'
import { toHoldfastError } from './sql-errors.ts'
import type { FirstUse } from './transaction-store.ts'
import * as decisions from './decision-store.ts'
import type { Committed, PendingBranch, TouchedShard, TransactRequest } from './transaction.ts'

/**
 * The second use of a key answers what the first one did. The unique index at home decides which is the first, and a
 * second use waits for it there; what it then reads counts only behind a barrier.
 */

/** How long a participant is asked what it has of a branch. The outcome is known at home, and does not wait for longer. */
const askWithinMs = 1_500

/** Half of the hour that keys are kept for at least (K8): no request goes on for longer that has one. */
const ageMsMax = 1_800_000

/**
 * An attempt under a new id claims as if it were born now, and home cannot see that it slept since before the key was used: gives
 * `idempotency_expired` (never) for one that may have.
 */
export function refuseOld({ idempotencyKey: key }: TransactRequest, ageMs: number): HoldfastError | undefined {
  if (key === undefined || ageMs <= ageMsMax) return undefined
  return new HoldfastError(
    'idempotency_expired',
    `the request with key ${key} began ${ageMs} ms ago, and the key may have been used and collected since`,
    { hint: 'look whether it has run, then send it with a new key', detail: { key } },
  )
}

/**
 * What a key stands for. Two requests are the same when this is; how their bodies name keys in order is no matter. Throws
 * `argument_invalid` for a request that does not survive JSON.
 */
export function hashRequest(request: TransactRequest): Uint8Array {
  const { tenant, action, subject, actor } = request
  const parts = [tenant, action, subject, actor, request.request ?? null]
  try {
    return createHash('sha256').update(canonicalJson(parts)).digest()
  } catch (cause) {
    throw new HoldfastError('argument_invalid', 'what an idempotency key stands for must survive JSON', {
      hint: 'turn bigint into text, and give plain data as the request',
      cause,
    })
  }
}

/** JSON with the keys of every object in order, so that equal values have equal texts. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}

/**
 * The value as a later use of the key would get it, and its text. The first use gets that too, so that a value which
 * JSON changes is noticed at once and not at the first replay.
 */
export function keepValue<T>(value: T): { readonly value: T; readonly json: string } {
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (error) {
    throw new HoldfastError(
      'argument_invalid',
      'the value of a transaction with an idempotency key must survive JSON',
      {
        hint: 'turn bigint into text, and return plain data',
        cause: error,
      },
    )
  }
  const kept = json ?? 'null'
  return { value: JSON.parse(kept) as T, json: kept }
}

/**
 * The first use's outcome: home alone tells it. Throws `idempotency_conflict`, or `node_unavailable` when no barrier passes there, or
 * another server has become the primary without the first use.
 */
export async function replay<T>(
  environment: TransactionEnvironment,
  home: ShardName,
  request: TransactRequest,
  first: FirstUse,
): Promise<Committed<T>> {
  const { transactionId } = first
  if (!first.sameRequest) {
    throw new HoldfastError('idempotency_conflict', `key ${request.idempotencyKey} was used for another request`, {
      hint: 'use a key for one request only',
      detail: { key: request.idempotencyKey, firstTransactionId: transactionId },
    })
  }
  try {
    const { historyId, epoch } = shardOf(environment, home)
    const primary = primaryOf(environment, home)
    const [outcome] = await environment.pools.flight(
      primary.target,
      [decisions.selectCommit(transactionId)],
      environment.limits.serviceWithinMs,
    )
    const commit = outcome === undefined ? undefined : decisions.readCommit(outcome)
    if (commit === undefined) throw lostFirstUse(request, first, home)
    const { commitTimestamp, participants, placements } = commit
    const [position, ...branches] = await Promise.all([
      environment.barriers.pass(home, primary.id),
      ...participants.map((shard) => branchOn(environment, shard, { transactionId, timestamp: commitTimestamp })),
    ])
    const placementVersion = Math.max(0, ...Object.values(placements))
    const atHome = { shard: home, historyId, epoch, role: 'home', placementVersion, position } as const
    return { value: first.value as T, transactionId, commitTimestamp, shards: [atHome, ...branches], replayed: true }
  } catch (error) {
    if (error instanceof ConnectionLost || error instanceof ServerError) {
      throw toHoldfastError(error, { shard: home, transactionId })
    }
    throw error
  }
}

/**
 * For the token of whoever uses the key again: that names the history of now, and the branch may have been prepared in one before. So it
 * is looked for, and one that is not in it any more is not named as pending (HZ-T3), nor one of which its shard says nothing. Either
 * is told to whoever reads there next (S11 of sessions).
 */
async function branchOn(
  environment: TransactionEnvironment,
  shard: ShardName,
  pending: PendingBranch,
): Promise<TouchedShard> {
  // As they are when it is asked for.
  const { historyId, epoch } = shardOf(environment, shard)
  const touched = { shard, historyId, epoch, role: 'participant', placementVersion: 0, position: lsnZero } as const
  const looking = findBranch(environment, shard, pending.transactionId).then(
    ({ kind }) => kind !== 'absent',
    () => false,
  )
  const isThere = (await endsWithin(environment.clock, looking, askWithinMs)) && (await looking)
  return isThere ? { ...touched, pending } : touched
}

/** The opening read the key on one server, and its commit is looked for on another: a failover in between has lost both. */
function lostFirstUse({ idempotencyKey: key }: TransactRequest, { transactionId }: FirstUse, shard: ShardName) {
  return new HoldfastError(
    'node_unavailable',
    `key ${key} was used by ${transactionId}, which ${shard} does not have`,
    {
      hint: 'send it again: its server was replaced, and the new primary decides',
      detail: { key, transactionId, shard },
    },
  )
}
