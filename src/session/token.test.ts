import { createHmac } from 'node:crypto'
import { encode } from 'cborg'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  anyFrontier,
  demand,
  frontierOn,
  historyNumber,
  hlc,
  payroll,
  shardNames,
  transaction,
} from '../../test/support/session-values.ts'
import { isHoldfastError } from '../base/errors.ts'
import type { ShardName, TenantName } from '../directory/topology.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import { emptyFrontier } from './frontier.ts'
import { shardsByRef } from './shard-refs.ts'
import type { KeyRing, TokenCheck, TokenScope } from './token.ts'
import { decodeToken, encodeToken, tokenCharsMax } from './token.ts'

const nowMs = Date.UTC(2026, 3, 2, 10, 0, 0)
const hourMs = 3_600_000
const secret = (byte: number) => new Uint8Array(32).fill(byte)
const ring: KeyRing = { current: 1, keys: new Map([[1, secret(1)]]) }
const globex: TokenScope = { fleet: 'payledger', tenant: 'globex-eu' as TenantName }
const issue = { nowMs, lifetimeMs: hourMs }
const check: TokenCheck = { nowMs, maxClockOffsetMs: 500, shards: shardsByRef(shardNames) }
const frontier = frontierOn(payroll, [
  demand(1, 0x16_b374_d848, { lastTransactionIds: [transaction(1)], idsSuffice: true }),
])
const token = encodeToken(frontier, ring, globex, issue)

function refusal(text: string, options: { ring?: KeyRing; scope?: TokenScope; check?: Partial<TokenCheck> } = {}) {
  try {
    decodeToken(text, options.ring ?? ring, options.scope ?? globex, { ...check, ...options.check })
  } catch (error) {
    if (!isHoldfastError(error)) throw error
    expect(error.hint).toMatch(/token|gateway|continue without it/)
    return `${error.code}: ${error.message}`
  }
  return 'accepted'
}

describe('round trip', () => {
  test('a token says what the frontier said', () => {
    fc.assert(
      fc.property(anyFrontier, (any) => {
        expect(decodeToken(encodeToken(any, ring, globex, issue), ring, globex, check)).toEqual(any)
      }),
    )
  })

  test('equal frontiers make equal tokens, whatever the order of their shards', () => {
    fc.assert(
      fc.property(anyFrontier, (any) => {
        const reversed = { ...any, shards: new Map([...any.shards].toReversed()) }
        expect(encodeToken(reversed, ring, globex, issue)).toBe(encodeToken(any, ring, globex, issue))
      }),
    )
  })

  test('the format of version 1 stays as it is', () => {
    expect(token).toMatchInlineSnapshot(
      `"AQEB6iyRxgBEpQEaac4-IAIZDhADGQPoBFggelweAEsdTD6fAAAAAAAAAQGWfwAAAHAAgAAAAAAAAAEFgYYasQqBugEBRRazdNhICQCaXGd170_KProskzafpZDa"`,
    )
  })

  test('an empty frontier is a token too', () => {
    expect(decodeToken(encodeToken(emptyFrontier, ring, globex, issue), ring, globex, check)).toEqual(emptyFrontier)
  })
})

describe('S1: what is no token is token_malformed', () => {
  const cases: [string, string, RegExp][] = [
    ['nothing', '', /not base64url/],
    ['a space', `${token} `, /not base64url/],
    ['base64 of the other alphabet', `${token.slice(0, 8)}+/${token.slice(10)}`, /not base64url/],
    ['too long a text', 'A'.repeat(tokenCharsMax + 1), /8193 characters/],
    [
      'another version',
      Buffer.concat([Buffer.of(7), Buffer.from(token, 'base64url').subarray(1)]).toString('base64url'),
      /version 7/,
    ],
    ['unknown bindings', Buffer.from([1, 1, 4, ...Buffer.alloc(40)]).toString('base64url'), /unknown bindings/],
    [
      'something behind the end',
      Buffer.concat([Buffer.from(token, 'base64url'), Buffer.of(0)]).toString('base64url'),
      /behind its end/,
    ],
  ]

  test.each(cases)('%s', (_, text, why) => {
    expect(refusal(text)).toMatch(/^token_malformed/)
    expect(refusal(text)).toMatch(why)
  })

  test('a truncated token, wherever it was cut', () => {
    const bytes = Buffer.from(token, 'base64url')
    for (let length = 1; length < bytes.length; length += 1) {
      expect(refusal(bytes.subarray(0, length).toString('base64url'))).toMatch(/^token_malformed: .*truncated/)
    }
  })

  const good = new Map<number, unknown>([
    [1, nowMs / 1000],
    [2, 60],
    [3, 1000],
    [4, Buffer.alloc(32, 7)],
    [5, [[[...check.shards.keys()][0], 1, 1, Buffer.of(1), 1, 0]]],
  ])
  const row = (...items: unknown[]) => [5, [[[...check.shards.keys()][0], ...items]]] as const
  const broken: [string, Uint8Array][] = [
    ['no CBOR', Buffer.of(0xff, 0xff)],
    ['no map', encode([1, 2])],
    ['an integer longer than it need be', Buffer.from('a1011a00000005', 'hex')],
    ['no rows', encode(new Map([...good].slice(0, 4)))],
    ['half a UUID', encode(new Map([...good, [4, Buffer.alloc(24)]]))],
    ['a row without a history', encode(new Map([...good, [4, Buffer.alloc(0)]]))],
    ['a row that is no list', encode(new Map([...good, [5, [3]]]))],
    ['an index beyond the table', encode(new Map([...good, row(1, 1, Buffer.of(1), 1, 9)]))],
    ['a branch without a timestamp', encode(new Map([...good, row(1, 1, Buffer.of(1), 0, 0)]))],
    ['more last ids than there are', encode(new Map([...good, row(1, 1, Buffer.of(1), 2, 0)]))],
    ['unknown flags', encode(new Map([...good, row(1, 1, Buffer.of(1), 0x80)]))],
    ['a negative epoch', encode(new Map([...good, row(1, -1, Buffer.of(1), 0)]))],
    ['a position of nine bytes', encode(new Map([...good, row(1, 1, Buffer.alloc(9, 1), 0)]))],
    ['a position with a leading zero', encode(new Map([...good, row(1, 1, Buffer.of(0, 1), 0)]))],
    ['a timestamp beyond int8', encode(new Map([...good, [3, 2n ** 63n]]))],
    ['a timestamp before all time', encode(new Map([...good, [6, [2000]]]))],
    ['five branches', encode(new Map([...good, [6, [1]], row(1, 1, Buffer.of(1), 0, 0, 0, 0, 0, 0)]))],
    ['a lifetime that is a text', encode(new Map([...good, [2, 'long']]))],
    ['one key in place of another', encode(new Map([...good].map(([key, value]) => [key === 2 ? 0 : key, value])))],
    ['keys that a frontier does not have', encode(new Map([...good, [6, []], [7, 1]]))],
    ['fewer keys than it says', Buffer.concat([Buffer.of(0xa6), encode(new Map(good)).subarray(1)])],
    ['more keys than it says', Buffer.concat([Buffer.of(0xa4), encode(new Map(good)).subarray(1)])],
    ['something behind the end', Buffer.concat([encode(new Map(good)), Buffer.of(0)])],
  ]

  test.each(broken)('a signed payload with %s', (_, payload) => {
    expect(refusal(sign(payload))).toMatch(/^token_malformed: .*payload is broken/)
  })

  test('whatever is signed is read or refused', () => {
    const whole = encode(good)
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.uint8Array({ minLength: 1, maxLength: 9 }), (at, change) => {
        const payload = Buffer.concat([whole.subarray(0, at), change, whole.subarray(at + change.length)])
        expect(refusal(sign(payload))).toMatch(
          /^(accepted|token_malformed|token_shard_unknown|token_expired|clock_offset)/,
        )
      }),
      { numRuns: 2_000 },
    )
  })

  test('the payload that those are made from is good', () => {
    expect(refusal(sign(encode(good)))).toBe('accepted')
  })
})

describe('S1: what is not authentic is token_forged', () => {
  test('every byte of a token counts', () => {
    const bytes = Buffer.from(token, 'base64url')
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const tampered = Buffer.from(bytes)
        tampered[at] = (bytes[at] ?? 0) ^ change
        expect(refusal(tampered.toString('base64url'))).toMatch(/^token_(forged|malformed|foreign)/)
      }),
      { numRuns: 1_000 },
    )
  })

  test('a changed payload and a changed signature', () => {
    const bytes = Buffer.from(token, 'base64url')
    for (const at of [12, bytes.length - 1]) {
      const tampered = Buffer.from(bytes)
      tampered[at] = (bytes[at] ?? 0) ^ 1
      expect(refusal(tampered.toString('base64url'))).toMatch(/^token_forged: .*signature/)
    }
  })

  test('a key that is not on the ring', () => {
    expect(refusal(token, { ring: { current: 2, keys: new Map([[2, secret(2)]]) } })).toMatch(/^token_forged: .*key 1/)
  })

  test('the right key id with another secret', () => {
    expect(refusal(token, { ring: { current: 1, keys: new Map([[1, secret(9)]]) } })).toMatch(/^token_forged/)
  })
})

describe('S1: keys change without a token being lost', () => {
  const both: KeyRing = {
    current: 2,
    keys: new Map([
      [1, secret(1)],
      [2, secret(2)],
    ]),
  }

  test('an old token verifies, a new one is signed with the new key', () => {
    expect(refusal(token, { ring: both })).toBe('accepted')
    const renewed = encodeToken(frontier, both, globex, issue)
    expect(refusal(renewed, { ring: both })).toBe('accepted')
    expect(refusal(renewed)).toMatch(/^token_forged: .*key 2/)
  })
})

describe('S1: what was issued for someone else is token_foreign', () => {
  const bound = encodeToken(frontier, ring, { ...globex, credential: 'manager@globex.example' }, issue)
  const cases: [string, string, TokenScope, RegExp][] = [
    ['another fleet', token, { ...globex, fleet: 'other' }, /another fleet/],
    ['another tenant', token, { ...globex, tenant: 'acme-de' as TenantName }, /another tenant/],
    ['no tenant', token, { fleet: 'payledger' }, /another tenant/],
    ['another credential', bound, { ...globex, credential: 'clerk@globex.example' }, /another credential/],
    ['no credential', bound, globex, /another credential/],
  ]

  test.each(cases)('%s', (_, text, scope, message) => {
    expect(refusal(text, { scope })).toMatch(/^token_foreign/)
    expect(refusal(text, { scope })).toMatch(message)
  })

  test('another fleet is told as such although its key is not known here', () => {
    const keys: KeyRing = { current: 5, keys: new Map([[5, secret(5)]]) }
    const theirs = encodeToken(frontier, keys, { fleet: 'other' }, issue)
    expect(refusal(theirs)).toMatch(/^token_foreign: .*another fleet/)
  })

  test('a token that is not bound is good for any tenant and credential of its fleet', () => {
    const unbound = encodeToken(frontier, ring, { fleet: 'payledger' }, issue)
    expect(refusal(unbound, { scope: { ...globex, credential: 'anyone' } })).toBe('accepted')
  })

  test('a tenant does not pass for a credential of the same name', () => {
    const asTenant = encodeToken(frontier, ring, { fleet: 'f', tenant: 'x' as TenantName }, issue)
    expect(refusal(asTenant, { scope: { fleet: 'f', credential: 'x' } })).toMatch(/^token_foreign/)
  })
})

test('S1: names of any length are bound', () => {
  const long = { ...globex, tenant: 'x'.repeat(100_000) as TenantName }
  const theirs = encodeToken(frontier, ring, long, issue)
  expect(refusal(theirs, { scope: long })).toBe('accepted')
  expect(refusal(theirs)).toMatch(/^token_foreign/)
})

describe('S1: a token has its time', () => {
  test('it expires after its lifetime, not before', () => {
    expect(refusal(token, { check: { nowMs: nowMs + hourMs } })).toBe('accepted')
    expect(refusal(token, { check: { nowMs: nowMs + hourMs + 1 } })).toMatch(/^token_expired: .* 1 ms ago/)
  })

  test('one from a gateway whose clock is ahead is refused beyond the offset', () => {
    expect(refusal(token, { check: { nowMs: nowMs - 500 } })).toBe('accepted')
    expect(refusal(token, { check: { nowMs: nowMs - 501 } })).toMatch(/^clock_offset_exceeded: .*501 ms ahead/)
  })

  test('so is a frontier that is ahead, which no observation may adopt', () => {
    const ahead = encodeToken({ ...emptyFrontier, timestamp: hlcFromWallMs(nowMs + 501) }, ring, globex, issue)
    expect(refusal(ahead)).toMatch(/^clock_offset_exceeded: .*501 ms ahead/)
  })
})

describe('shards by their short form', () => {
  test('a shard that this gateway does not know is told, never dropped', () => {
    expect(refusal(token, { check: { shards: shardsByRef(['us-east/treasury' as ShardName]) } })).toMatch(
      /^token_shard_unknown/,
    )
  })

  test('two shards with one short form are refused before they hold data', () => {
    // Found by search: the first four bytes of their SHA-256 are equal.
    const names = ['eu-west/shard-49588', 'eu-west/shard-129592'] as [ShardName, ShardName]
    expect(() => shardsByRef(names)).toThrow(/same short form/)
    expect(() => shardsByRef([names[0], names[0]])).not.toThrow()
  })
})

test('a session over more shards than a token can carry is refused when it is signed', () => {
  const shards = Array.from({ length: 400 }, (_, index) => `eu-west/shard-${index}` as ShardName)
  const histories = [demand(1, 1, { historyId: historyNumber(5) })]
  const wide = {
    timestamp: hlc(1),
    shards: new Map(shards.map((shard) => [shard, { placementVersion: 1, histories, historiesForgotten: false }])),
  }
  expect(() => encodeToken(wide, ring, globex, issue)).toThrow(/400 shards does not fit/)
})

/** A token around any payload, by an implementation of the envelope of its own. */
function sign(payload: Uint8Array): string {
  const head = [...Buffer.from(token, 'base64url').subarray(0, 7)]
  const signed = Buffer.from([...head, payload.length >> 8, payload.length & 0xff, ...payload])
  const bind = (name: string) => Buffer.concat([Buffer.of(0, 0, 0, name.length), Buffer.from(name)])
  const mac = createHmac('sha256', secret(1))
    .update(Buffer.concat([bind('fleet payledger'), bind('tenant globex-eu'), signed]))
    .digest()
  return Buffer.concat([signed, mac.subarray(0, 16)]).toString('base64url')
}
