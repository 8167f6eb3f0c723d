import type { Clock } from '../base/clock.ts'
import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import type { TenantName, TopologySource } from '../directory/topology.ts'
import { emptyFrontier, type Frontier, joinFrontiers } from '../session/frontier.ts'
import {
  advanceByBranch,
  advanceByCommit,
  advanceByReading,
  advanceByUnknownBranch,
  forgetSettled,
  mustSettleFirst,
  tokenLifetimeMsDefault,
} from '../session/session.ts'
import { shardsByRef } from '../session/shard-refs.ts'
import {
  decodeToken,
  encodeToken,
  requireRoomToGrow,
  tokenCharsMax,
  type TokenIssue,
  type TokenScope,
} from '../session/token.ts'
import type { Committed } from '../transaction/transaction.ts'
import type { TokenRing } from './token-ring.ts'

/** As many calls as a page makes at once; more are a hop that collects tokens and sends none. */
const tokensMax = 64
/** A session that takes less than this has room for whatever a transaction adds to it. */
const roomyChars = tokenCharsMax / 4

/** Between tokens, which clients carry, and frontiers, which the mechanisms below understand. */
export class Sessions {
  readonly #fleet: string
  readonly #ring: TokenRing
  readonly #topology: TopologySource
  readonly #clock: Clock
  readonly #maxClockOffsetMs: number

  constructor(options: {
    fleet: string
    ring: TokenRing
    topology: TopologySource
    clock: Clock
    maxClockOffsetMs: number
  }) {
    this.#fleet = options.fleet
    this.#topology = options.topology
    this.#clock = options.clock
    this.#maxClockOffsetMs = options.maxClockOffsetMs
    this.#ring = options.ring
  }

  /**
   * The frontier of a token, or of several with commas between them, as hops carry them that cannot join; the empty one
   * without a token. Throws what `decodeToken` throws, and what `requireRoomToGrow` does: whoever goes on from here gets a token.
   */
  async open(session: string | undefined, tenant: string, credential?: string): Promise<Frontier> {
    // Also without a token: a gateway that cannot read the ring says so here, before anything is committed.
    await this.#ring.renew()
    if (session === undefined) return emptyFrontier
    const tokens = session.split(',').map((token) => token.trim())
    if (tokens.length > tokensMax) {
      const why = `a session of ${tokens.length} tokens; a request carries at most ${tokensMax}`
      throw new HoldfastError('token_malformed', why, {
        hint: 'send what an answer gave in place of what its request carried',
      })
    }
    const frontiers = await Promise.all(tokens.map((token) => this.#openOne(token, tenant, credential)))
    const frontier = frontiers.reduce(joinFrontiers)
    if (session.length > roomyChars) {
      requireRoomToGrow(frontier, this.#ring.latest(), this.#scope(tenant, credential), this.#issue())
    }
    return frontier
  }

  async #openOne(token: string, tenant: string, credential: string | undefined): Promise<Frontier> {
    try {
      return this.#decode(token, tenant, credential)
    } catch (error) {
      // A shard that this gateway has not heard of yet may be new.
      if (!isHoldfastError(error, 'token_shard_unknown')) throw error
      await this.#topology.refresh()
      return this.#decode(token, tenant, credential)
    }
  }

  /** Rejects with nothing: what was committed is told, with the ring at hand where it cannot be read anew (S16). */
  async seal(frontier: Frontier, tenant: string, credential?: string): Promise<string> {
    await this.#ring.renew().catch(() => undefined)
    return encodeToken(frontier, this.#ring.latest(), this.#scope(tenant, credential), this.#issue())
  }

  #issue(): TokenIssue {
    return { nowMs: this.#clock.wallMs(), lifetimeMs: tokenLifetimeMsDefault }
  }

  /** The least token that demands what both demand. */
  async join(a: string, b: string, tenant: string, credential?: string): Promise<string> {
    const [left, right] = [await this.open(a, tenant, credential), await this.open(b, tenant, credential)]
    return this.seal(joinFrontiers(left, right), tenant, credential)
  }

  #decode(token: string, tenant: string, credential: string | undefined): Frontier {
    return decodeToken(token, this.#ring.latest(), this.#scope(tenant, credential), {
      nowMs: this.#clock.wallMs(),
      maxClockOffsetMs: this.#maxClockOffsetMs,
      shards: shardsByRef(this.#topology.current().shards.keys()),
    })
  }

  #scope(tenant: string, credential: string | undefined): TokenScope {
    return { fleet: this.#fleet, tenant: tenant as TenantName, credential }
  }
}

/**
 * What a session has seen once it was told of its own commit. One that an idempotency key replays came before what the session
 * has seen since: it takes nothing's place, and no branch was settled for it (S3, S11).
 */
export function afterCommit(before: Frontier, committed: Committed<unknown>): Frontier {
  if (committed.replayed) {
    return joinFrontiers(before, afterCommit(emptyFrontier, { ...committed, replayed: false }))
  }
  const { transactionId, commitTimestamp } = committed
  return committed.shards.reduce((frontier, { shard, historyId, epoch, placementVersion, position, role, pending }) => {
    const met = { shard, historyId, epoch, placementVersion, transactionId }
    if (role === 'participant') {
      if (pending === undefined) return advanceByUnknownBranch(frontier, { ...met, commitTimestamp })
      // The write path settles what a session knows to be pending on a shard before it uses the shard.
      const room = mustSettleFirst(frontier, shard) ? forgetSettled(frontier, shard) : frontier
      return advanceByBranch(room, { ...met, commitTimestamp: pending.timestamp, flushedAfterPrepare: position })
    }
    if (role === 'reader') return advanceByReading(frontier, { ...met, position })
    return advanceByCommit(frontier, { ...met, commitTimestamp, flushedAfterCommit: position })
  }, before)
}
