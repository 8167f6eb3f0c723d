import { timingSafeEqual } from 'node:crypto'
import { assert, present } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TenantName } from '../directory/topology.ts'
import { formatHlc, wallMsOfHlc } from '../hlc/hlc.ts'
import { type Frontier, withoutNames } from './frontier.ts'
import { macOf } from './mac.ts'
import { CborReader, CborWriter } from './cbor.ts'
import { binding, boundOf, hintBytes, hintOf, keyOf } from './token-bound.ts'
import type { TokenBody } from './token-payload.ts'
import { writePayload } from './token-payload.ts'
import { PayloadMalformed, readPayload, ShardUnknown } from './token-payload-reader.ts'

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
const headBytes = 3
const lengthBytes = 2
const macBytes = 16

/** Node refuses requests with more than 16 KiB of headers where it is not told otherwise; a token takes at most half of that. */
export const tokenCharsMax = 8192

/** Where the token at hand is put together, and where one that was received is taken apart: one at a time, with no wait in it. */
const writer = new CborWriter()
const received = Buffer.allocUnsafeSlow(tokenCharsMax)
const reader = new CborReader(received)
const trueMac = Buffer.alloc(macBytes)

/** What a transaction may add: about ten shards. */
const growthCharsMax = 1024

/**
 * Signs a frontier; without the names of its transactions where it does not fit with them. Throws `argument_invalid` when it has
 * touched more shards than a token can carry, some hundred.
 */
export function encodeToken(frontier: Frontier, ring: KeyRing, scope: TokenScope, issue: TokenIssue): SessionToken {
  const text = sign(frontier, ring, scope, issue)
  if (text.length <= tokenCharsMax) return text
  const shorter = sign(withoutNames(frontier), ring, scope, issue)
  if (shorter.length <= tokenCharsMax) return shorter
  throw tooLarge(frontier)
}

/** For who is to commit, and could not give the token of it back (S11). Throws `argument_invalid`. */
export function requireRoomToGrow(frontier: Frontier, ring: KeyRing, scope: TokenScope, issue: TokenIssue): void {
  const text = sign(withoutNames(frontier), ring, scope, issue)
  if (text.length + growthCharsMax > tokenCharsMax) throw tooLarge(frontier)
}

function tooLarge({ shards }: Frontier): HoldfastError {
  return new HoldfastError('argument_invalid', `a session over ${shards.size} shards does not fit into a token`, {
    hint: 'begin a new session for a part of the shards',
  })
}

function sign(frontier: Frontier, ring: KeyRing, scope: TokenScope, issue: TokenIssue): SessionToken {
  const bindings =
    (scope.tenant === undefined ? 0 : binding.tenant) | (scope.credential === undefined ? 0 : binding.credential)
  const bound = boundOf(bindings, scope)
  assert(ring.current >= 0 && ring.current <= 0xff, () => `a key id fits into a byte, ${ring.current} does not`)
  const secret = present(ring.keys.get(ring.current), () => `key ${ring.current} is on the ring`)
  writer.restart()
  writer.byte(version)
  writer.byte(ring.current)
  writer.byte(bindings)
  writer.raw(bound.hints)
  const payloadAt = writer.reserve(lengthBytes) + lengthBytes
  writePayload(writer, {
    issuedAtSeconds: Math.floor(issue.nowMs / 1000),
    lifetimeSeconds: Math.ceil(issue.lifetimeMs / 1000),
    frontier,
  })
  const macAt = writer.reserve(macBytes)
  writer.bytes.writeUInt16BE(Math.min(macAt - payloadAt, 0xffff), payloadAt - lengthBytes)
  writer.bytes.write(macOf(keyOf(secret, bound), writer.bytes, 0, macAt), macAt, macBytes, 'latin1')
  return writer.bytes.toString('base64url', 0, writer.length) as SessionToken
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
 * | `token_shard_unknown` | ask the topology anew and decode again; if that fails too, continue without the token |
 */
export function decodeToken(text: string, ring: KeyRing, scope: TokenScope, check: TokenCheck): Frontier {
  const parts = takeApart(received, receive(text))
  const secret = ring.keys.get(parts.keyId)
  if (secret === undefined || !isInScope(parts.bindings, scope) || !isAuthentic(parts, secret, scope)) {
    throw notOurs(parts, secret !== undefined, scope)
  }
  const body = readBody(parts, check.shards)
  checkTimes(body, check)
  return body.frontier
}

/** In constant time, whatever the difference is. */
function isAuthentic({ bindings, macAt }: Parts, secret: Uint8Array, scope: TokenScope): boolean {
  trueMac.write(macOf(keyOf(secret, boundOf(bindings, scope)), received, 0, macAt), 0, macBytes, 'latin1')
  return timingSafeEqual(received.subarray(macAt, macAt + macBytes), trueMac)
}

/** Where the parts of a token begin. */
interface Parts {
  readonly keyId: number
  readonly bindings: number
  readonly payloadAt: number
  /** Everything before it is signed. */
  readonly macAt: number
}

/** Takes the bytes of a text in, and gives how many they are. */
function receive(text: string): number {
  if (text.length > tokenCharsMax)
    throw malformed(`it has ${text.length} characters, and no token more than ${tokenCharsMax}`)
  const length = received.write(text, 'base64url')
  // The decoder skips what it does not know; the token that it came from reads back the same.
  if (text === '' || received.toString('base64url', 0, length) !== text) throw malformed('it is not base64url')
  return length
}

function takeApart(bytes: Buffer, length: number): Parts {
  const [found, keyId = 0, bindings = 0] = [bytes[0], bytes[1], bytes[2]]
  if (found !== version) throw malformed(`it is of version ${found}, and this gateway reads version ${version}`)
  if (length < headBytes) throw malformed('it is truncated')
  if (bindings > (binding.tenant | binding.credential)) throw malformed('it has unknown bindings')
  const payloadAt = headBytes + hintBytes * boundCount(bindings) + lengthBytes
  const macAt = length < payloadAt ? length : payloadAt + bytes.readUInt16BE(payloadAt - lengthBytes)
  if (length < macAt + macBytes) throw malformed('it is truncated')
  if (length > macAt + macBytes) throw malformed('something is behind its end')
  return { keyId, bindings, payloadAt, macAt }
}

function readBody({ payloadAt, macAt }: Parts, shards: ReadonlyMap<number, ShardName>): TokenBody {
  try {
    reader.restart(payloadAt, macAt)
    return readPayload(reader, shards)
  } catch (error) {
    if (error instanceof PayloadMalformed) throw malformed(`its payload is broken: ${error.message}`, error)
    if (error instanceof ShardUnknown) {
      throw new HoldfastError(
        'token_shard_unknown',
        'the session token names a shard that this gateway does not know',
        {
          hint: 'if it stays unknown after the topology was asked anew, the shard is gone: continue without the token',
          cause: error,
        },
      )
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
    const hintAt = headBytes + index * hintBytes
    const hint = received.subarray(hintAt, hintAt + hintBytes)
    return name === undefined || !hint.equals(hintOf(kind, name))
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
  return (
    ((bindings & binding.tenant) === 0 || scope.tenant !== undefined) &&
    ((bindings & binding.credential) === 0 || scope.credential !== undefined)
  )
}

function boundKinds(bindings: number): ('tenant' | 'credential')[] {
  return (['tenant', 'credential'] as const).filter((kind) => (bindings & binding[kind]) !== 0)
}

function boundCount(bindings: number): number {
  return 1 + (bindings & 1) + (bindings >> 1)
}
