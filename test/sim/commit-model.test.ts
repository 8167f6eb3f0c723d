import { describe, expect, test } from 'vitest'
import { HoldfastError } from '../../src/base/errors.ts'
import { hlcZero } from '../../src/hlc/hlc.ts'
import type { RecordFacts } from '../../src/transaction/collection.ts'
import type { CommitEvent, CommitState, Transition } from '../../src/transaction/commit-protocol.ts'
import type { ResolverEvent, ResolverState } from '../../src/transaction/resolver-protocol.ts'
import { explore, playScript } from './commit-play.ts'
import { Server } from './commit-server.ts'
import type { Parts } from './commit-parts.ts'
import { realParts } from './commit-parts.ts'

/**
 * The step functions of coordinator and resolver, under a deterministic scheduler. An interleaving is one whole schedule:
 * up to 90 choices of what is delivered, lost, cancelled, crashed, promoted or learnt next, over three transactions and
 * three shards; two schedules with the same trace count once. `npm run torture` plays many more.
 */
const failure = new HoldfastError('transaction_aborted', 'as the bug has it')

const told = ({ failed }: ReturnType<typeof explore>) =>
  failed === undefined
    ? 'holds'
    : `seed ${failed.seed}: ${failed.violations.join('; ')}\n  ${failed.trace.join('\n  ')}`

test('a global commit is one outcome everywhere, and the one that clients were told, in 100,000 interleavings', () => {
  const explored = explore(realParts, { seed: 1, schedules: 101_000 })
  expect(told(explored)).toBe('holds')
  expect(explored.distinct).toBeGreaterThan(100_000)
}, 600_000)

/** Faulty parts, each of which the model must see through. */
const bugs: Readonly<Record<string, Partial<Parts>>> = {
  'a warning taken for an acknowledgement (HZ-S1)': { warned: 'acknowledged' },
  'no barrier before a record counts (HZ-X1)': {
    stepResolver: (state, event) => withoutBarrier(state, event),
  },
  'a barrier of another primary than the one that was read': { barrierNamesEpoch: false },
  'a record collected while a branch is prepared (HZ-X2)': {
    judgeCollection: (aimMs, records) => collectsAll(aimMs, records),
  },
  'a branch prepared below the watermark (HZ-X2)': { announcesCollection: false },
  'a decision ABORTED collected before its branch is gone (K7)': { decisionsGo: 'at once' },
  'a decision before every vote': { step: (state, event) => decidesEarly(state, event) },
  'an unanswered decision taken for a refusal': {
    step: (state, event) => realParts.step(state, event.kind === 'unanswered' ? { kind: 'refused', failure } : event),
  },
  'an abort presumed without writing it under the key': { stepResolver: (state, event) => presumesAlone(state, event) },
  'home does not observe what participants prepared at (HZ-C10)': {
    step: (state, event) => observesNothing(state, event),
  },
  'no barrier behind what was only read (Q1, Q2)': { readerBarrier: 'never' },
  'home does not observe the clock of who only read (Q3)': {
    step: (state, event) =>
      realParts.step(state, event.kind === 'vote read' ? { ...event, timestamp: hlcZero } : event),
  },
  'the least advanced follower is promoted': { promote: (old) => promotesLeast(old) },
}

function withoutBarrier(state: ResolverState, event: ResolverEvent) {
  const next = realParts.stepResolver(state, event)
  return next.state.kind === 'passing' ? realParts.stepResolver(next.state, { kind: 'barrier passed' }) : next
}

function presumesAlone(state: ResolverState, event: ResolverEvent) {
  const next = realParts.stepResolver(state, event)
  if (next.state.kind !== 'presuming' || state.kind === 'presuming') return next
  return realParts.stepResolver(next.state, { kind: 'record', decision: { outcome: 'ABORTED' } })
}

function collectsAll(aimMs: number, records: readonly RecordFacts[]) {
  return { throughMs: aimMs, collect: records.map(({ transactionId }) => transactionId), left: [] }
}

function decidesEarly(state: CommitState, event: CommitEvent): Transition {
  if (state.kind !== 'preparing' || event.kind !== 'vote yes') return realParts.step(state, event)
  return realParts.step({ ...state, waiting: [event.shard] }, event)
}

function observesNothing(state: CommitState, event: CommitEvent): Transition {
  const next = realParts.step(state, event)
  if (next.state.kind !== 'observing') return next
  return { state: { kind: 'deciding', prepared: next.state.prepared }, effects: [{ kind: 'decide', after: hlcZero }] }
}

function promotesLeast(old: Server): Server {
  old.isCurrent = false
  return new Server(old.shard, old.epoch + 1, old.log.slice(0, Math.min(...old.received)), old.clock)
}

describe('the model sees through', () => {
  test.each(Object.entries(bugs))('%s', (_, bug) => {
    const { failed, schedules } = explore({ ...realParts, ...bug }, { seed: 1, schedules: 20_000 })
    expect(failed, `${schedules} schedules saw nothing`).toBeDefined()
  })

  test.each([
    ['who was born before keys were collected', { refusesOldClaims: false }],
    ['who looked before they were, and waited', { claimsLookAgain: false }],
  ])('a key claimed by %s (K8), among requests of one key', (_, bug) => {
    const skip = /^(begin 1$|begin 1\+2|begin 1, read|resolve|push|write)/
    const options = { seed: 1, schedules: 20_000, skip }
    const { failed, schedules } = explore({ ...realParts, ...bug }, options)
    expect(failed?.violations, `${schedules} schedules saw nothing`).toEqual([expect.stringMatching(/^twice: /)])
  })

  test('a retry that is told of a first use without a barrier, which takes a commit that nobody has', () => {
    const claim = ['begin 1 with the key', 'deliver 0', 'deliver 0']
    const commit = ['deliver 0', 'replicate 1.0', 'acknowledge 0', 'deliver 0', 'deliver 0', 'cancel 0']
    const retry = ['begin 1 with the key', 'deliver 1', 'deliver 1', 'deliver 1', 'promote 0']
    const script = [...claim, ...commit, ...retry]
    const early = playScript({ ...realParts, replaysBehindBarrier: false }, script)
    expect(early.trace).toEqual([...script, 'settled'])
    expect(early.violations).toEqual(['lost: 1 was told what became of 0, which is not committed'])
    expect(playScript(realParts, script)).toMatchObject({ trace: early.trace, violations: [] })
  })

  test('a record collected as soon as its branches are settled here (HZ-X2), which takes a failover at one moment', () => {
    const commit = ['begin 1', 'deliver 0', 'replicate 1.0', 'acknowledge 0', 'deliver 0', 'deliver 0']
    const settle = ['replicate 0.0', 'acknowledge 0', 'deliver 0', 'deliver 0']
    const collect = ['collect 0', 'collect 0', 'replicate 0.0', 'remove records']
    const script = [...commit, ...settle, ...collect, 'promote 1']
    const early = playScript({ ...realParts, collectsReplicated: false }, script)
    expect(early.trace).toEqual([...script, 'settled'])
    expect(early.violations).toEqual(['stuck: 0 at 1', expect.stringContaining('half: 0 is committed at home')])
    expect(playScript(realParts, script).violations).toEqual([])
  })

  test('a barrier that was begun before the read (B1), which takes a row that nobody has just in between', () => {
    const pass = ['begin 1, read 2', 'deliver 0', 'replicate 2.0', 'acknowledge 0']
    const script = [...pass, 'write 2', 'deliver 1', 'cancel 0', 'deliver 0', 'promote 2']
    const early = playScript({ ...realParts, readerBarrier: 'with the read' }, script)
    expect(early.trace).toEqual([...script, 'settled'])
    expect(early.violations).toEqual(['vanished: 0 read row 0 at 2'])
    const behind = ['begin 1, read 2', 'write 2', 'deliver 1', 'cancel 0', 'deliver 0', 'promote 2']
    const real = playScript(realParts, behind)
    expect(real.trace).toEqual([...behind, 'settled'])
    expect(real.violations).toEqual([])
  })

  test('a barrier beside a batch that reads, which overtakes it', () => {
    const overtake = ['begin 1, check 2', 'deliver 0', 'replicate 2.0', 'acknowledge 0']
    const rest = ['replicate 0.0', 'acknowledge 0', 'deliver 0']
    const script = [...overtake, 'write 2', 'deliver 2', 'cancel 0', 'deliver 0', 'promote 2', ...rest]
    const beside = playScript({ ...realParts, readerBarrier: 'with the read' }, script)
    expect(beside.violations).toEqual(['vanished: 0 read row 0 at 2'])
    const behind = ['begin 1, check 2', 'write 2', 'deliver 2', 'cancel 0', 'deliver 0', 'promote 2']
    const real = playScript(realParts, behind)
    expect(real.trace).toEqual([...behind, 'settled'])
    expect(real.violations).toEqual([])
  })
})
