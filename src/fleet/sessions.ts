import type { Clock } from '../base/clock.ts'
import { isHoldfastError } from '../base/errors.ts'
import type { TenantName, TopologySource } from '../directory/topology.ts'
import { emptyFrontier, type Frontier, joinFrontiers } from '../session/frontier.ts'
import {
  advanceByBranch,
  advanceByCommit,
  advanceByReading,
  forgetSettled,
  mustSettleFirst,
  tokenLifetimeMsDefault,
} from '../session/session.ts'
import { shardsByRef } from '../session/shard-refs.ts'
import { decodeToken, encodeToken, type KeyRing, type TokenScope } from '../session/token.ts'
import type { Committed } from '../transaction/transaction.ts'
import type { FleetKeys } from './keys.ts'

/** Between tokens, which clients carry, and frontiers, which the mechanisms below understand. */
export class Sessions {
  readonly #fleet: string
  readonly #ring: KeyRing
  readonly #topology: TopologySource
  readonly #clock: Clock
  readonly #maxClockOffsetMs: number

  constructor(options: {
    fleet: string
    keys: FleetKeys
    topology: TopologySource
    clock: Clock
    maxClockOffsetMs: number
  }) {
    this.#fleet = options.fleet
    this.#topology = options.topology
    this.#clock = options.clock
    this.#maxClockOffsetMs = options.maxClockOffsetMs
    this.#ring = toKeyRing(options.keys)
  }

  /** The frontier of a token; the empty one without a token. Throws what `decodeToken` throws. */
  async open(token: string | undefined, tenant: string): Promise<Frontier> {
    if (token === undefined) return emptyFrontier
    try {
      return this.#decode(token, tenant)
    } catch (error) {
      // A shard that this gateway has not heard of yet may be new.
      if (!isHoldfastError(error, 'unknown_shard')) throw error
      await this.#topology.refresh()
      return this.#decode(token, tenant)
    }
  }

  seal(frontier: Frontier, tenant: string): string {
    return encodeToken(frontier, this.#ring, this.#scope(tenant), {
      nowMs: this.#clock.wallMs(),
      lifetimeMs: tokenLifetimeMsDefault,
    })
  }

  /** The least token that demands what both demand. */
  async join(a: string, b: string, tenant: string): Promise<string> {
    return this.seal(joinFrontiers(await this.open(a, tenant), await this.open(b, tenant)), tenant)
  }

  #decode(token: string, tenant: string): Frontier {
    return decodeToken(token, this.#ring, this.#scope(tenant), {
      nowMs: this.#clock.wallMs(),
      maxClockOffsetMs: this.#maxClockOffsetMs,
      shards: shardsByRef(this.#topology.current().shards.keys()),
    })
  }

  #scope(tenant: string): TokenScope {
    return { fleet: this.#fleet, tenant: tenant as TenantName }
  }
}

/** What a session has seen once it was told of its own commit. */
export function afterCommit(before: Frontier, committed: Committed<unknown>): Frontier {
  const { transactionId, commitTimestamp } = committed
  return committed.shards.reduce((frontier, { shard, historyId, epoch, placementVersion, position, role, pending }) => {
    const met = { shard, historyId, epoch, placementVersion, transactionId }
    if (role === 'participant' && pending !== undefined) {
      // The write path settles what a session knows to be pending on a shard before it uses the shard.
      const room = mustSettleFirst(frontier, shard) ? forgetSettled(frontier, shard) : frontier
      return advanceByBranch(room, { ...met, commitTimestamp: pending.timestamp, flushedAfterPrepare: position })
    }
    if (role === 'reader') return advanceByReading(frontier, { ...met, position })
    return advanceByCommit(frontier, { ...met, commitTimestamp, flushedAfterCommit: position })
  }, before)
}

function toKeyRing(keys: FleetKeys): KeyRing {
  const { current, keys: secrets } = keys.tokenKeys
  return {
    current,
    keys: new Map(Object.entries(secrets).map(([id, secret]) => [Number(id), Buffer.from(secret, 'base64url')])),
  }
}
