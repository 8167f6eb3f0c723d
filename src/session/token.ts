import { hash, timingSafeEqual } from 'node:crypto'
import { assert, present } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'
import { HoldfastError } from '../base/errors.ts'
import { remembered } from '../base/remembered.ts'
import type { ShardName, TenantName } from '../directory/topology.ts'
import { formatHlc, wallMsOfHlc } from '../hlc/hlc.ts'
import type { Frontier } from './frontier.ts'
import type { MacKey } from './mac.ts'
import { macKey, macOf } from './mac.ts'
import type { TokenBody } from './token-payload.ts'
import { decodePayload, encodePayload, PayloadMalformed, ShardUnknown } from './token-payload.ts'

/**
 * The signed form of a frontier, in base64url (RFC 4648, section 5):
 *
 *     version 1 · key id 1 · bindings 1 · a hint of 2 bytes for the fleet and for each binding
 *     length of the payload 2 · payload (`token-payload.ts`) · HMAC-SHA-256, its first 16 bytes
 *
 * Fleet, tenant and credential are part of what is signed but not of what is sent, so a token verifies for its owner
 * alone at no cost in bytes. The hints decide nothing: they only tell a token of someone else from a forged one. 128
 * bits of a MAC are what RFC 2104, section 5, allows at least; a guess succeeds once in 2^128.
 *
 * Four shards take less than 300 bytes, and as text less than 300 characters while the ids are of up to two
 * transactions; `token-size.test.ts` has the table.
 */
export type SessionToken = Brand<string, 'SessionToken'>

/** Tokens are signed with the current key and verified with all, so a key retires one token lifetime after its successor came. */
export interface KeyRing {
  readonly current: number
  /** By key id, 0 to 255: secrets of at least 32 bytes. */
  readonly keys: ReadonlyMap<number, Uint8Array>
}

/** Whom a token is for. One without tenant or credential is good for every tenant or credential of the fleet. */
export interface TokenScope {
  readonly fleet: string
  readonly tenant?: TenantName | undefined
  /** What stands for the caller's credential, e.g. the subject of its access token. */
  readonly credential?: string | undefined
}

export interface TokenIssue {
  readonly nowMs: number
  readonly lifetimeMs: number
}

export interface TokenCheck {
  readonly nowMs: number
  readonly maxClockOffsetMs: number
  /** The shards that this gateway knows, from `shardsByRef`. */
  readonly shards: ReadonlyMap<number, ShardName>
}

const version = 1
const binding = { tenant: 1, credential: 2 } as const
const headBytes = 3
const hintBytes = 2
const lengthBytes = 2
const macBytes = 16
const secretBytesMin = 32

/** Node refuses requests with more than 16 KiB of headers; a token takes at most half of that. */
export const tokenCharsMax = 8192

/**
 * Signs a frontier. Throws `argument_invalid` when it has touched more shards than a token can carry, some hundred.
 */
export function encodeToken(frontier: Frontier, ring: KeyRing, scope: TokenScope, issue: TokenIssue): SessionToken {
  const payload = encodePayload({
    issuedAtSeconds: Math.floor(issue.nowMs / 1000),
    lifetimeSeconds: Math.ceil(issue.lifetimeMs / 1000),
    frontier,
  })
  const bindings =
    (scope.tenant === undefined ? 0 : binding.tenant) | (scope.credential === undefined ? 0 : binding.credential)
  const bound = boundOf(bindings, scope)
  assert(ring.current >= 0 && ring.current <= 0xff, () => `a key id fits into a byte, ${ring.current} does not`)
  const secret = present(ring.keys.get(ring.current), () => `key ${ring.current} is on the ring`)
  const payloadAt = headBytes + bound.hints.length + lengthBytes
  const macAt = payloadAt + payload.length
  const token = Buffer.allocUnsafe(macAt + macBytes)
  token.set([version, ring.current, bindings])
  token.set(bound.hints, headBytes)
  token.writeUInt16BE(Math.min(payload.length, 0xffff), payloadAt - lengthBytes)
  token.set(payload, payloadAt)
  token.write(macOf(keyOf(secret, bound), token.subarray(0, macAt)), macAt, macBytes, 'latin1')
  const text = token.toString('base64url')
  if (text.length > tokenCharsMax) {
    throw new HoldfastError(
      'argument_invalid',
      `a session over ${frontier.shards.size} shards does not fit into a token`,
      {
        hint: 'begin a new session for a part of the shards',
      },
    )
  }
  return text as SessionToken
}

/**
 * The frontier of a token, once it has proven to be one of ours (S1). None of the errors says anything about data:
 *
 * | error | what to do |
 * |---|---|
 * | `token_malformed` | send the token as it was received, or none |
 * | `token_forged`, `token_foreign` | send the token that this fleet issued for this tenant and credential, or none |
 * | `token_expired` | continue without it |
 * | `clock_offset_exceeded` | a gateway's clock is ahead: send it again later |
 * | `unknown_shard` | ask the topology anew and decode again; if that fails too, continue without the token |
 */
export function decodeToken(text: string, ring: KeyRing, scope: TokenScope, check: TokenCheck): Frontier {
  const parts = takeApart(bytesOf(text))
  const secret = ring.keys.get(parts.keyId)
  const authentic =
    isInScope(parts.bindings, scope) &&
    secret !== undefined &&
    timingSafeEqual(parts.mac, trueMac(secret, parts, scope))
  if (!authentic) throw notOurs(parts, secret !== undefined, scope)
  const body = readBody(parts.payload, check.shards)
  checkTimes(body, check)
  return body.frontier
}

function trueMac(secret: Uint8Array, { bindings, signed }: Parts, scope: TokenScope): Buffer {
  return Buffer.from(macOf(keyOf(secret, boundOf(bindings, scope)), signed), 'latin1').subarray(0, macBytes)
}

interface Parts {
  readonly keyId: number
  readonly bindings: number
  readonly hints: Buffer
  readonly payload: Buffer
  /** Everything before the MAC. */
  readonly signed: Buffer
  readonly mac: Buffer
}

function bytesOf(text: string): Buffer {
  if (text.length > tokenCharsMax)
    throw malformed(`it has ${text.length} characters, and no token more than ${tokenCharsMax}`)
  const bytes = Buffer.from(text, 'base64url')
  // The decoder skips what it does not know; the token that it came from reads back the same.
  if (text === '' || bytes.toString('base64url') !== text) throw malformed('it is not base64url')
  return bytes
}

function takeApart(bytes: Buffer): Parts {
  const [found, keyId, bindings] = bytes
  if (found !== version) throw malformed(`it is of version ${found}, and this gateway reads version ${version}`)
  if (keyId === undefined || bindings === undefined) throw malformed('it is truncated')
  if (bindings > (binding.tenant | binding.credential)) throw malformed('it has unknown bindings')
  const hintsAt = headBytes
  const lengthAt = hintsAt + hintBytes * boundCount(bindings)
  const payloadAt = lengthAt + lengthBytes
  const macAt = bytes.length < payloadAt ? bytes.length : payloadAt + bytes.readUInt16BE(lengthAt)
  if (bytes.length < payloadAt || bytes.length < macAt + macBytes) throw malformed('it is truncated')
  if (bytes.length > macAt + macBytes) throw malformed('something is behind its end')
  return {
    keyId,
    bindings,
    hints: bytes.subarray(hintsAt, lengthAt),
    payload: bytes.subarray(payloadAt, macAt),
    signed: bytes.subarray(0, macAt),
    mac: bytes.subarray(macAt),
  }
}

function readBody(payload: Buffer, shards: ReadonlyMap<number, ShardName>): TokenBody {
  try {
    return decodePayload(payload, shards)
  } catch (error) {
    if (error instanceof PayloadMalformed) throw malformed(`its payload is broken: ${error.message}`, error)
    if (error instanceof ShardUnknown) {
      throw new HoldfastError('unknown_shard', 'the session token names a shard that this gateway does not know', {
        hint: 'if it stays unknown after the topology was asked anew, the shard is gone: continue without the token',
        cause: error,
      })
    }
    throw error
  }
}

function checkTimes({ issuedAtSeconds, lifetimeSeconds, frontier }: TokenBody, check: TokenCheck): void {
  const issuedAtMs = issuedAtSeconds * 1000
  const aheadMs = Math.max(issuedAtMs, wallMsOfHlc(frontier.timestamp)) - check.nowMs
  if (aheadMs > check.maxClockOffsetMs) {
    throw new HoldfastError(
      'clock_offset_exceeded',
      `the session token lies ${aheadMs} ms ahead of this gateway's clock`,
      {
        hint: 'check the clocks of the gateways, and send the request again when this one has caught up',
        detail: { aheadMs, maxClockOffsetMs: check.maxClockOffsetMs, timestamp: formatHlc(frontier.timestamp) },
      },
    )
  }
  const expiredMs = check.nowMs - issuedAtMs - lifetimeSeconds * 1000
  if (expiredMs > 0) {
    throw new HoldfastError('token_expired', `the session token expired ${expiredMs} ms ago`, {
      hint: 'continue without it; the answer starts a new session',
      detail: { expiredMs },
    })
  }
}

function notOurs(parts: Parts, keyIsKnown: boolean, scope: TokenScope): HoldfastError {
  const kinds = ['fleet', ...boundKinds(parts.bindings)] as const
  const foreign = kinds.find((kind, index) => {
    const name = scope[kind]
    const hint = parts.hints.subarray(index * hintBytes, (index + 1) * hintBytes)
    return name === undefined || !hint.equals(hintOf(`${kind} ${name}`))
  })
  if (foreign !== undefined) {
    return new HoldfastError('token_foreign', `the session token was issued for another ${foreign}`, {
      hint: 'send the token that was received for this fleet, tenant and credential, or continue without one',
      detail: { differs: foreign },
    })
  }
  const why = keyIsKnown ? 'its signature does not match' : `its key ${parts.keyId} is not one of this fleet`
  return new HoldfastError('token_forged', `the session token is not authentic: ${why}`, {
    hint: 'send the token unchanged as it was received, or continue without one',
  })
}

function malformed(why: string, cause?: unknown): HoldfastError {
  return new HoldfastError('token_malformed', `not a session token: ${why}`, {
    hint: 'send the whole token unchanged as it was received, or continue without one',
    ...(cause === undefined ? {} : { cause }),
  })
}

function isInScope(bindings: number, scope: TokenScope): boolean {
  return boundKinds(bindings).every((kind) => scope[kind] !== undefined)
}

function boundKinds(bindings: number): ('tenant' | 'credential')[] {
  return (['tenant', 'credential'] as const).filter((kind) => (bindings & binding[kind]) !== 0)
}

function boundCount(bindings: number): number {
  return 1 + boundKinds(bindings).length
}

/** What a token is bound to: its hints, and how the names go into the MAC. The same for every token of one scope. */
interface Bound {
  readonly hints: Buffer
  readonly names: Buffer
  /** Made for each secret once. */
  readonly keys: WeakMap<Uint8Array, MacKey>
}

function boundOf(bindings: number, { fleet, tenant, credential }: TokenScope): Bound {
  const named = (kind: 'tenant' | 'credential', name: string | undefined) =>
    (bindings & binding[kind]) === 0 ? '' : lengthPrefixed(`${kind} ${present(name, () => `the scope has a ${kind}`)}`)
  return boundByNames(lengthPrefixed(`fleet ${fleet}`) + named('tenant', tenant) + named('credential', credential))
}

/** So that none can pass for two. */
function lengthPrefixed(name: string): string {
  return `${name.length}:${name}`
}

/** By kind, so that no tenant can pass for a credential; with their lengths in bytes in the MAC as well. */
const boundByNames = remembered((prefixed): Bound => {
  const names: string[] = []
  for (let at = 0; at < prefixed.length; ) {
    const colon = prefixed.indexOf(':', at)
    const end = colon + 1 + Number(prefixed.slice(at, colon))
    names.push(prefixed.slice(colon + 1, end))
    at = end
  }
  return {
    hints: Buffer.concat(names.map(hintOf)),
    names: Buffer.concat(
      names.flatMap((name) => {
        const bytes = Buffer.from(name)
        const length = Buffer.alloc(4)
        length.writeUInt32BE(bytes.length)
        return [length, bytes]
      }),
    ),
    keys: new WeakMap(),
  }
}, 1_000)

function keyOf(secret: Uint8Array, { names, keys }: Bound): MacKey {
  const known = keys.get(secret)
  if (known !== undefined) return known
  assert(secret.length >= secretBytesMin, `a token key has at least ${secretBytesMin} bytes`)
  const key = macKey(secret, names)
  keys.set(secret, key)
  return key
}

function hintOf(name: string): Buffer {
  return hash('sha256', name, 'buffer').subarray(0, hintBytes)
}
