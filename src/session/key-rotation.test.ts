import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { TokenKeys } from './key-rotation.ts'
import { dropKeys, keyStates, promoteKey, publishKey, revokeKey, ringLeaseMs } from './key-rotation.ts'

const lifetimeMs = 24 * 3_600_000
const retirement = { tokenLifetimeMs: lifetimeMs, maxClockOffsetMs: 500 }
const founded: TokenKeys = { current: 1, keys: { 1: 'first' } }

function published(ring: TokenKeys, secret: string): TokenKeys {
  const next = publishKey(ring, secret)
  if (next === undefined) throw new Error('the ring is full')
  return next
}

const statesOf = (ring: TokenKeys) => keyStates(ring, retirement).map(({ id, state }) => `${id} ${state}`)

describe('a rotation', () => {
  test('S13: a key that is published does not sign', () => {
    const ring = published(founded, 'second')
    expect(ring).toMatchObject({ current: 1, next: 2, keys: { 1: 'first', 2: 'second' } })
    expect(statesOf(ring)).toEqual(['1 signing', '2 published'])
  })

  test('the published key signs, and the one before it stays', () => {
    const ring = promoteKey(published(founded, 'second'), 2, 'second', 7_000)
    expect(ring).toEqual({ current: 2, keys: { 1: 'first', 2: 'second' }, retiredAtMs: { 1: 7_000 } })
    expect(statesOf(ring)).toEqual(['1 retired', '2 signing'])
  })

  test('S15: each step run again changes nothing', () => {
    const once = published(founded, 'second')
    expect(publishKey(once, 'third')).toBe(once)
    const signing = promoteKey(once, 2, 'second', 7_000)
    expect(promoteKey(signing, 2, 'second', 8_000)).toBe(signing)
    expect(dropKeys(signing, 8_000, retirement)).toBe(signing)
  })

  test('S14: a retired key stays for as long as what it signed, and then goes', () => {
    const ring = promoteKey(published(founded, 'second'), 2, 'second', 0)
    const [retired] = keyStates(ring, retirement)
    const goneAtMs = retired?.goneAtMs ?? 0
    expect(goneAtMs).toBeGreaterThan(lifetimeMs + retirement.maxClockOffsetMs + ringLeaseMs)
    expect(dropKeys(ring, goneAtMs - 1, retirement)).toBe(ring)
    expect(dropKeys(ring, goneAtMs, retirement)).toEqual({ current: 2, keys: { 2: 'second' }, retiredAtMs: {} })
  })

  test('S13: who waited for one key promotes no other', () => {
    const ring = published(promoteKey(published(founded, 'second'), 2, 'second', 7_000), 'third')
    expect(promoteKey(ring, 2, 'second', 8_000)).toBe(ring)
  })

  test('a ring whose ids are all taken takes no key', () => {
    const keys = Object.fromEntries(Array.from({ length: 256 }, (_, id) => [id, 'secret']))
    expect(publishKey({ current: 7, keys }, 'more')).toBeUndefined()
  })
})

describe('S16: a revoked key', () => {
  const rotated = published(promoteKey(published(founded, 'second'), 2, 'second', 7_000), 'third')

  test('leaves the ring, retired or published; the others stay as they are', () => {
    expect(revokeKey(rotated, 1)).toEqual({ current: 2, next: 3, keys: { 2: 'second', 3: 'third' }, retiredAtMs: {} })
    const without = { current: 2, keys: { 1: 'first', 2: 'second' }, retiredAtMs: { 1: 7_000 } }
    expect(revokeKey(rotated, 3)).toEqual(without)
  })

  test('is told when it is not there, and is never the one that signs', () => {
    expect(revokeKey(rotated, 9)).toBeUndefined()
    expect(() => revokeKey(rotated, 2)).toThrow('another key signs')
  })

  test('whose id comes again with another secret is another key: who waited for the one promotes not the other', () => {
    const without = revokeKey(rotated, 3)
    if (without === undefined) throw new Error('it was there')
    const again = published(without, 'fourth')
    expect(again.next).toBe(3)
    expect(promoteKey(again, 3, 'third', 8_000)).toBe(again)
    expect(promoteKey(again, 3, 'fourth', 8_000).current).toBe(3)
  })

  test('that was waited for promotes nothing', () => {
    const ring = revokeKey(rotated, 3)
    if (ring === undefined) throw new Error('it was there')
    expect(promoteKey(ring, 3, 'third', 8_000)).toBe(ring)
  })
})

/** Gateways that read the ring in their own time, and an operator who rotates, restarts and waits as he likes. */
describe('S13, S14, S16: over any course of rotations', () => {
  type Move =
    | { readonly do: 'rotate' | 'break off' | 'revoke' }
    | { readonly do: 'pass'; readonly ms: number }
    | { readonly do: 'read' | 'issue'; readonly gateway: number }

  const gateway = fc.integer({ min: 0, max: 2 })
  const moves: fc.Arbitrary<Move[]> = fc.array(
    fc.oneof(
      fc.record({ do: fc.constantFrom('rotate' as const, 'break off' as const, 'revoke' as const) }),
      fc.record({ do: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: lifetimeMs }) }),
      fc.record({ do: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: ringLeaseMs }) }),
      fc.record({ do: fc.constantFrom('read' as const, 'issue' as const), gateway }),
    ),
    { maxLength: 60 },
  )

  function play(course: readonly Move[], waitMs: number): string[] {
    let ring = founded
    let nowMs = 0
    let secrets = 1
    const gateways = [0, 1, 2].map(() => ({ ring, readMs: 0 }))
    const tokens: { id: number; secret: string | undefined; issuedMs: number }[] = []
    const revoked = new Set<string | undefined>()
    const refused: string[] = []
    const use = (index: number) => {
      const gateway = gateways[index]
      if (gateway === undefined) throw new Error('no such gateway')
      if (nowMs - gateway.readMs > ringLeaseMs) Object.assign(gateway, { ring, readMs: nowMs })
      return gateway.ring
    }
    const check = () => {
      for (const { id, secret, issuedMs } of tokens.filter((token) => nowMs - token.issuedMs <= lifetimeMs)) {
        for (const index of gateways.keys()) {
          const isTaken = use(index).keys[id] === secret
          if (isTaken === revoked.has(secret)) refused.push(`key ${id} of ${issuedMs} at ${nowMs}`)
        }
      }
    }
    for (const move of course) {
      if (move.do === 'pass') nowMs += move.ms
      else if (move.do === 'read') Object.assign(gateways[move.gateway] ?? {}, { ring, readMs: nowMs })
      else if (move.do === 'issue') {
        const used = use(move.gateway)
        tokens.push({ id: used.current, secret: used.keys[used.current], issuedMs: nowMs })
      } else {
        secrets += 1
        ring = published(dropKeys(ring, nowMs, retirement), `secret ${secrets}`)
        if (move.do === 'break off') continue
        nowMs += waitMs
        const id = ring.next ?? ring.current
        ring = promoteKey(ring, id, ring.keys[id] ?? '', nowMs)
        // Whoever has read it by now issues at once.
        const [first] = gateways
        if (first !== undefined) Object.assign(first, { ring, readMs: nowMs })
        tokens.push({ id: ring.current, secret: ring.keys[ring.current], issuedMs: nowMs })
        if (move.do === 'revoke') {
          const [oldest = Number.NaN] = Object.keys(ring.keys).map(Number)
          const without = revokeKey(ring, oldest)
          if (without === undefined) throw new Error('a ring has a key besides the one that signs, behind a rotation')
          revoked.add(ring.keys[oldest])
          ring = without
          nowMs += waitMs
        }
      }
      check()
    }
    return refused
  }

  test('no gateway refuses what another has issued, unless its key was revoked, and then each does', () => {
    fc.assert(
      fc.property(moves, (course) => {
        expect(play(course, ringLeaseMs + 1)).toEqual([])
      }),
    )
  })

  test('a key that signs at once is refused by who has not read it', () => {
    const course = [{ do: 'read' as const, gateway: 1 }, { do: 'rotate' as const }]
    expect(play(course, 0)).not.toEqual([])
  })
})
