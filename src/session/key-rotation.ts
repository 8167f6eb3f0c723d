import { assert, present } from '../base/assert.ts'

/**
 * Rotating the keys that session tokens are signed with, while sessions live.
 *
 * The simple way, to sign with a new key from now on, has one gateway refuse as forged what another has just issued: they
 * do not hear of a key in the same moment. And a key that goes with its successor's coming takes every session with it. So a
 * key is published before it signs, and kept for as long as what it signed may live:
 *
 *     published --(a lease later)--> signing --(its successor signs)--> retired --(a token's lifetime later)--> gone
 *         |                                                                 |
 *         +--------------------------- (somebody else may have it) ---------+---------------------------------> gone
 *
 *   S13  What a gateway issues is on the ring of every other. A ring is used for at most a lease after it was read, and a
 *        key signs no sooner than a lease after it was published: who checks a token of that key has read the ring since.
 *   S14  A key leaves the ring when no token that it signed can be alive, or when it is revoked.
 *   S15  A step replaces the ring as a whole. Each may be run again, and a rotation that was broken off goes on with the
 *        key that it had published.
 *   S16  A revoked key verifies nothing at any gateway, a lease after it left the ring, and none that can read the ring signs with
 *        it then.
 *
 * These are the steps, as functions from ring to ring. Who keeps the ring durable, and waits, is `fleet/`.
 */
export interface TokenKeys {
  /** The id of the key that signs. */
  readonly current: number
  /** The id of a key that only verifies yet. */
  readonly next?: number | undefined
  /** Secrets of 32 bytes in base64url, by key id, 0 to 255. */
  readonly keys: Readonly<Record<string, string>>
  /** Since when keys do not sign any more, in wall time, by key id. */
  readonly retiredAtMs?: Readonly<Record<string, number>> | undefined
}

/** How long a ring may be used after it was read. */
export const ringLeaseMs = 5_000

/**
 * Beyond the lifetime of a token and the offset of clocks: for a gateway that cannot read the ring at the end of a long
 * request, and signs with the one that it had at its beginning.
 */
const graceMs = 3_600_000

const keyIds = 256

/** What is known of a key beside its secret. */
export interface TokenKeyState {
  readonly id: number
  readonly state: 'published' | 'signing' | 'retired'
  /** Of a retired key, when it goes; null of the others. */
  readonly goneAtMs: number | null
}

export interface Retirement {
  readonly tokenLifetimeMs: number
  readonly maxClockOffsetMs: number
}

/** A ring with a key that does not sign yet; the same ring where one is there already. `undefined`: every id is taken. */
export function publishKey(ring: TokenKeys, secret: string): TokenKeys | undefined {
  if (ring.next !== undefined) return ring
  const next = nextId(ring)
  return next === undefined ? undefined : { ...ring, next, keys: { ...ring.keys, [next]: secret } }
}

/**
 * A published key signs from now on. The same ring where it does already: of two who rotate at once, the second must not
 * promote a key that was published while it waited for another.
 */
export function promoteKey(ring: TokenKeys, id: number, secret: string, nowMs: number): TokenKeys {
  const { next, ...rest } = ring
  // An id comes again behind a revocation.
  if (next === undefined || next !== id || ring.keys[id] !== secret) return ring
  assert(ring.keys[next] !== undefined, `key ${next} is on the ring`)
  return { ...rest, current: next, retiredAtMs: { ...ring.retiredAtMs, [ring.current]: nowMs } }
}

/** The ring without the keys whose tokens have all expired; the same ring where there are none. */
export function dropKeys(ring: TokenKeys, nowMs: number, retirement: Retirement): TokenKeys {
  const gone = keyStates(ring, retirement).filter(({ goneAtMs }) => goneAtMs !== null && goneAtMs <= nowMs)
  if (gone.length === 0) return ring
  const isKept = ([id]: readonly [string, unknown]) => gone.every((one) => one.id !== Number(id))
  return {
    ...ring,
    keys: Object.fromEntries(Object.entries(ring.keys).filter(isKept)),
    retiredAtMs: Object.fromEntries(Object.entries(ring.retiredAtMs ?? {}).filter(isKept)),
  }
}

/** The ring without a key that does not sign, whatever lives of it; `undefined` where there is no such key. */
export function revokeKey(ring: TokenKeys, id: number): TokenKeys | undefined {
  assert(id !== ring.current, 'another key signs before one is revoked')
  if (ring.keys[id] === undefined) return undefined
  const { next, keys, retiredAtMs, ...rest } = ring
  const without = <T>(of: Readonly<Record<string, T>>) =>
    Object.fromEntries(Object.entries(of).filter(([key]) => Number(key) !== id))
  return {
    ...rest,
    ...(next === undefined || next === id ? {} : { next }),
    keys: without(keys),
    ...(retiredAtMs === undefined ? {} : { retiredAtMs: without(retiredAtMs) }),
  }
}

/** Every key of the ring, by id. */
export function keyStates(ring: TokenKeys, { tokenLifetimeMs, maxClockOffsetMs }: Retirement): TokenKeyState[] {
  return Object.keys(ring.keys).map((key): TokenKeyState => {
    const id = Number(key)
    if (id === ring.current) return { id, state: 'signing', goneAtMs: null }
    if (id === ring.next) return { id, state: 'published', goneAtMs: null }
    const retiredAtMs = present(ring.retiredAtMs?.[key], `key ${id} says when it retired`)
    return { id, state: 'retired', goneAtMs: retiredAtMs + tokenLifetimeMs + maxClockOffsetMs + graceMs }
  })
}

/** Behind the newest, so that an id comes again as late as it can: a token of the key before it would be told forged. */
function nextId({ current, keys }: TokenKeys): number | undefined {
  const behind = Array.from({ length: keyIds - 1 }, (_, index) => (current + 1 + index) % keyIds)
  return behind.find((id) => keys[id] === undefined)
}
