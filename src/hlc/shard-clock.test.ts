import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Hlc } from './hlc.ts'
import { hlcFromWallMs, maxHlc, toHlc, wallMsOfHlc } from './hlc.ts'
import type { ClockCommand, ShardClock, Walls } from './shard-clock.ts'
import { agreedWall, stepClock } from './shard-clock.ts'

const offsetMs = 500
const yearMs = 365 * 86_400_000
const startMs = Date.UTC(2026, 3, 2)

const start: ShardClock = { clock: hlcFromWallMs(startMs), floor: hlcFromWallMs(startMs - 1) }

/** Of true time, seconds from the start; of a wall that lies, up to a year in both directions. */
const honestMs = fc.integer({ min: 0, max: 10_000 }).map((ms) => startMs + ms)
const anyMs = fc.oneof(honestMs, fc.integer({ min: startMs - yearMs, max: startMs + yearMs }))
const ticks = fc.integer({ min: 0, max: 0xffff })
const timestamp = fc.tuple(anyMs, ticks).map(([ms, count]) => toHlc(hlcFromWallMs(ms) + BigInt(count)))
const walls = fc.record({ server: anyMs.map(hlcFromWallMs), witness: anyMs.map(hlcFromWallMs) })

const command: fc.Arbitrary<ClockCommand> = fc.oneof(
  fc.constant<ClockCommand>({ kind: 'draw' }),
  fc.constant<ClockCommand>({ kind: 'tick' }),
  timestamp.map<ClockCommand>((at) => ({ kind: 'observe', timestamp: at })),
  timestamp.map<ClockCommand>((at) => ({ kind: 'observe decided', timestamp: at })),
  timestamp.map<ClockCommand>((to) => ({ kind: 'raise floor', to })),
)
const undecided = command.filter(({ kind }) => kind !== 'observe decided')

function play(steps: readonly (readonly [ClockCommand, Walls])[]) {
  let shard = start
  return steps.map(([does, at]) => {
    const before = shard
    const { after, refused } = stepClock(before, does, at, offsetMs)
    shard = after
    return { does, at, before, after, refused }
  })
}

const steps = fc.array(fc.tuple(command, walls), { maxLength: 40 })

test('C2: whatever the walls do, the clock never goes back and every stamp is above the one before', () => {
  fc.assert(
    fc.property(steps, (played) => {
      for (const { does, before, after } of play(played)) {
        expect(after.clock).toBeGreaterThanOrEqual(before.clock)
        expect(after.floor).toBeGreaterThanOrEqual(before.floor)
        if (does.kind === 'draw') expect(after.clock).toBe(before.clock + 1n)
      }
    }),
  )
})

test('C2: what was observed lies below the next stamp', () => {
  fc.assert(
    fc.property(steps, (played) => {
      for (const { does, after, refused } of play(played)) {
        if (does.kind === 'observe' && refused === undefined) expect(after.clock).toBeGreaterThanOrEqual(does.timestamp)
      }
    }),
  )
})

test('C3: a stamp at or below the floor is refused, and no other', () => {
  fc.assert(
    fc.property(steps, (played) => {
      for (const { does, after, refused } of play(played)) {
        if (does.kind === 'draw') expect(refused === 'clock regressed').toBe(after.clock <= after.floor)
      }
    }),
  )
})

test('C6: a near move takes the clock no further than it was asked for, or than the agreed wall', () => {
  const kind = fc.constantFrom('observe', 'observe decided')
  // Beside the clock, where it matters which wall has passed it.
  const beside = fc.record({ server: fc.nat(1_000), witness: fc.nat(1_000) }).map(({ server, witness }) => ({
    server: hlcFromWallMs(startMs - 500 + server),
    witness: hlcFromWallMs(startMs - 500 + witness),
  }))
  fc.assert(
    fc.property(kind, ticks, beside, (does, near, at) => {
      const asked = toHlc(start.clock + BigInt(near))
      const { after } = stepClock(start, { kind: does, timestamp: asked } as ClockCommand, at, 50)
      expect(after.clock).toBeLessThanOrEqual(maxHlc(asked, agreedWall(at, 50)))
    }),
  )
})

const lying = fc.constantFrom('server', 'witness', 'nobody')

test('C6: HZ-C6: neither a server nor a gateway alone can take the clock further ahead of true time than two offsets', () => {
  const told = fc.tuple(undecided, lying, anyMs, honestMs)
  fc.assert(
    fc.property(fc.array(told, { maxLength: 40 }), (played) => {
      const truth = Math.max(startMs, ...played.map(([, , , honest]) => honest))
      const result = play(
        played.map(([does, liar, lie, honest]) => {
          const wall = (who: string) => hlcFromWallMs(liar === who ? lie : honest)
          return [does, { server: wall('server'), witness: wall('witness') }] as const
        }),
      )
      // A stamp takes it one value further each.
      const most = hlcFromWallMs(truth + 2 * offsetMs) + BigInt(played.length)
      expect(result.at(-1)?.after.clock ?? start.clock).toBeLessThanOrEqual(most)
    }),
  )
})

test('C6: HZ-P3: what was decided while one wall at most was wrong is adopted while one wall at most is wrong', () => {
  // A wall that is right is off by half the offset at most, so that two of them agree.
  const errorMs = fc.integer({ min: -offsetMs / 2, max: offsetMs / 2 })
  const lieMs = fc.oneof(fc.integer({ min: -3 * offsetMs, max: 3 * offsetMs }), fc.constantFrom(-yearMs, yearMs))
  const look = fc.record({ liar: lying, lieMs, serverMs: errorMs, witnessMs: errorMs, laterMs: fc.nat(50) })
  type Look = typeof look extends fc.Arbitrary<infer L> ? L : never
  const wallsAt = (trueMs: number, { liar, lieMs, serverMs, witnessMs }: Look): Walls => ({
    server: hlcFromWallMs(trueMs + (liar === 'server' ? lieMs : serverMs)),
    witness: hlcFromWallMs(trueMs + (liar === 'witness' ? lieMs : witnessMs)),
  })
  fc.assert(
    fc.property(fc.array(look, { minLength: 1, maxLength: 20 }), look, (looks, last) => {
      let trueMs = startMs
      let home = start
      for (const looked of looks) {
        trueMs += looked.laterMs
        const at = wallsAt(trueMs, looked)
        home = stepClock(home, { kind: 'tick' }, at, offsetMs).after
        // As far ahead as it may lie.
        const furthest = toHlc(agreedWall(at, offsetMs) + hlcFromWallMs(offsetMs))
        home = stepClock(home, { kind: 'observe', timestamp: furthest }, at, offsetMs).after
      }
      const decided = { kind: 'observe decided', timestamp: home.clock } as const
      const { after, refused } = stepClock(start, decided, wallsAt(trueMs, last), offsetMs)
      expect(refused).toBeUndefined()
      expect(after.clock).toBeGreaterThanOrEqual(home.clock)
    }),
    { numRuns: 1_000 },
  )
})

test.each<[string, number, number, boolean]>([
  ['three offsets ahead of both', 0, 0, true],
  ['three offsets ahead of the server, whose witness is a year behind', 0, -yearMs, true],
  ['three offsets ahead of the witness, whose server is a year behind', -yearMs, 0, true],
  ['further ahead of both', -1, -1, false],
])('C6: HZ-C6: what is decided %s: adopted, or the clock stays', (_, serverMs, witnessMs, adopted) => {
  const decided = hlcFromWallMs(startMs + 3 * offsetMs)
  const at = { server: hlcFromWallMs(startMs + serverMs), witness: hlcFromWallMs(startMs + witnessMs) }
  const { after, refused } = stepClock(start, { kind: 'observe decided', timestamp: decided }, at, offsetMs)
  expect(refused).toBe(adopted ? undefined : 'clock offset exceeded')
  expect(after.clock).toBe(adopted ? decided : start.clock)
})

test('walls that are right again bring the clock back to wall time', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(undecided, walls), { maxLength: 40 }), (played) => {
      const after = play(played).at(-1)?.after ?? start
      const wall = hlcFromWallMs(wallMsOfHlc(after.clock) + 1_000)
      const ticked = stepClock(after, { kind: 'tick' }, { server: wall, witness: wall }, offsetMs)
      expect(ticked.after.clock).toBe(wall)
    }),
  )
})

test.each<[string, number, number, 'server' | 'witness']>([
  ['agrees', 0, 0, 'server'],
  ['is as far ahead as may be', offsetMs, 0, 'server'],
  ['is further ahead', offsetMs + 1, 0, 'witness'],
  ['is a year ahead', yearMs, 0, 'witness'],
  ['is a year behind', 0, yearMs, 'server'],
])('a server that %s: the clock goes by its wall, or that of its witness', (_, serverMs, witnessMs, believed) => {
  const at = { server: hlcFromWallMs(startMs + serverMs), witness: hlcFromWallMs(startMs + witnessMs) }
  expect(agreedWall(at, offsetMs)).toBe<Hlc>(at[believed])
})
