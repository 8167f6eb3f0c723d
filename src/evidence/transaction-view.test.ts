import { describe, expect, test } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Known } from './proof-facts.ts'
import { known, unknown } from './proof-facts.ts'
import type { Trace } from './trace.ts'
import type { ShardTrace } from './trace-store.ts'
import { viewOf } from './transaction-view.ts'

const home = 'eu-west/payroll' as ShardName
const far = 'us-east/treasury' as ShardName
const other = 'eu-west/other' as ShardName
const action = { tenant: 'globex-eu', action: 'payroll.approve', subject: 'apr-2026', actor: 'manager' }

const nothing: ShardTrace = {
  state: { epoch: 1, historyId: 'h', closedTimestamp: toHlc(0n), collectedThroughMs: 0, histories: [] },
  commit: null,
  record: null,
  branch: null,
  prepared: false,
  events: [],
  attempt: null,
}

const committed: Partial<ShardTrace> = {
  commit: { ...action, commitTimestamp: toHlc(9n), epoch: 1, participants: [far], placements: [] },
  record: { outcome: 'COMMITTED', commitTimestamp: toHlc(9n), homeEpoch: 1, reason: '' },
}

const settled: Partial<ShardTrace> = {
  branch: {
    ...action,
    home,
    participants: [far],
    placements: [],
    facts: { state: 'committed', prepareTimestamp: toHlc(8n), commitTimestamp: toHlc(9n), epoch: 1, accepted: null },
  },
}

const aborted: Partial<ShardTrace> = {
  record: { outcome: 'ABORTED', commitTimestamp: null, homeEpoch: 1, reason: 'presumed' },
}

const refused: Partial<ShardTrace> = { attempt: { ...action, code: 'transaction_refused', reason: 'approved before' } }

function traceOf(shards: Readonly<Record<string, Partial<ShardTrace> | 'silent'>>): Trace {
  const entries = Object.entries(shards).map(([shard, of]): [ShardName, Known<ShardTrace>] => [
    shard as ShardName,
    of === 'silent' ? unknown('silence') : known({ ...nothing, ...of }),
  ])
  return { transactionId: '0196abcd-0000-7000-8000-000000000000' as TransactionId, shards: new Map(entries) }
}

describe('what became of a transaction', () => {
  test.each([
    ['committed', 'every shard has its part', { [home]: committed, [far]: settled }, 'committed'],
    ['committed', 'its branch is prepared still', { [home]: committed, [far]: { prepared: true } }, 'prepared'],
    ['committed', 'its participant is silent', { [home]: committed, [far]: 'silent' as const }, 'unreachable'],
    ['committed', 'its participant lost its half', { [home]: committed, [far]: {} }, 'absent'],
    ['aborted', 'a record says so', { [home]: aborted, [far]: { prepared: true } }, 'prepared'],
    ['in_doubt', 'a branch is prepared and nothing is decided', { [home]: {}, [far]: { prepared: true } }, 'prepared'],
  ])('is %s when %s', (outcome, _, shards, branch) => {
    const view = viewOf(traceOf(shards))
    expect(view.outcome).toBe(outcome)
    expect(view.branches).toMatchObject([{ shard: far, state: branch }])
  })

  test('is refused, with code and reason, when only the journal of attempts has it', () => {
    expect(viewOf(traceOf({ [home]: refused, [far]: {} }))).toMatchObject({
      ...action,
      outcome: 'refused',
      refusal: { code: 'transaction_refused', reason: 'approved before' },
      home: null,
      branches: [],
    })
  })

  test('is told from the branch when the home is silent', () => {
    const view = viewOf(traceOf({ [home]: 'silent', [far]: settled }))
    expect(view).toMatchObject({ ...action, outcome: 'committed', home, commitTimestamp: null })
    expect(view.branches).toMatchObject([{ shard: far, state: 'committed' }])
  })

  test('names no shard that has nothing to do with it', () => {
    const view = viewOf(traceOf({ [home]: committed, [far]: settled, [other]: {} }))
    expect(view.branches.map(({ shard }) => shard)).toEqual([far])
  })

  test('is unknown_transaction when every shard answers and none has a trace', () => {
    expect(() => viewOf(traceOf({ [home]: {}, [far]: {} }))).toThrow(
      expect.objectContaining({ code: 'unknown_transaction' }),
    )
  })

  test('is node_unavailable when one that might have a trace is silent: silence is no evidence', () => {
    expect(() => viewOf(traceOf({ [home]: 'silent', [far]: {} }))).toThrow(
      expect.objectContaining({ code: 'node_unavailable', detail: expect.objectContaining({ shards: [home] }) }),
    )
  })
})
