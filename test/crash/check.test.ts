import { describe, expect, test } from 'vitest'
import type { Evidence, Found, Reading } from './check.ts'
import { checkCell } from './check.ts'

const id = '0190a0b0-0000-7000-8000-000000000001'
const other = '0190a0b0-0000-7000-8000-000000000002'

const committed: Found = {
  homeRows: 1,
  participantRows: 1,
  commits: [{ transactionId: id, commitTimestamp: '200' }],
  records: [{ transactionId: id, outcome: 'COMMITTED' }],
  branches: [{ transactionId: id, prepareTimestamp: '100' }],
  decisions: [{ transactionId: id, outcome: 'COMMITTED', commitTimestamp: '200' }],
  prepared: [],
}
const aborted: Found = {
  homeRows: 0,
  participantRows: 0,
  commits: [],
  records: [{ transactionId: id, outcome: 'ABORTED' }],
  branches: [],
  decisions: [{ transactionId: id, outcome: 'ABORTED', commitTimestamp: null }],
  prepared: [],
}

const goodCommit: Evidence = {
  expected: 'committed',
  mayTell: ['committed'],
  faultSeen: true,
  told: { kind: 'committed', transactionId: id, code: null },
  reading: null,
  found: committed,
  foundAgain: committed,
  asked: [{ transactionId: id, answers: ['committed', 'committed'] }],
  repeated: [
    { transactionId: id, replayed: true },
    { transactionId: id, replayed: true },
  ],
  refusedAgain: [],
  notClosed: [],
}
const rerun: Found = {
  ...aborted,
  homeRows: 1,
  participantRows: 1,
  commits: [{ transactionId: other, commitTimestamp: '300' }],
}
const goodAbort: Evidence = {
  expected: 'aborted',
  mayTell: ['failed', 'unknown'],
  faultSeen: true,
  told: { kind: 'failed', transactionId: null, code: 'transaction_aborted' },
  reading: null,
  found: aborted,
  foundAgain: rerun,
  asked: [{ transactionId: id, answers: ['aborted', 'aborted'] }],
  repeated: [
    { transactionId: other, replayed: false },
    { transactionId: other, replayed: true },
  ],
  refusedAgain: [],
  notClosed: [],
}
const unknown = { kind: 'unknown', transactionId: id, code: 'outcome_ambiguous' } as const
const reading = (of: Reading): Evidence => ({ ...goodCommit, reading: of })
const found = (base: Evidence, change: Partial<Found>): Evidence => ({
  ...base,
  found: { ...base.found, ...change },
  foundAgain: { ...base.foundAgain, ...change },
})

test('what went well has no violation', () => {
  expect(checkCell(goodCommit)).toEqual([])
  expect(checkCell(goodAbort)).toEqual([])
  expect(checkCell({ ...goodAbort, told: unknown })).toEqual([])
  expect(checkCell({ ...goodCommit, reading: { before: ['a'], read: ['b', 'a'], after: ['a', 'b', 'c'] } })).toEqual([])
  expect(checkCell({ ...goodAbort, reading: { before: ['a'], read: null, after: [] } })).toEqual([])
})

describe('a bad history is seen', () => {
  const bad: readonly (readonly [string, string, Evidence])[] = [
    ['half a commit', 'half', found(goodCommit, { participantRows: 0 })],
    ['a branch without its commit', 'half', found(goodAbort, { branches: committed.branches })],
    ['a row without its commit', 'unrecorded', found(goodAbort, { homeRows: 1, participantRows: 1 })],
    [
      'a request that ran twice',
      'repeated',
      found(goodCommit, {
        homeRows: 2,
        participantRows: 2,
        commits: [...committed.commits, { transactionId: other, commitTimestamp: '300' }],
      }),
    ],
    ['a branch left prepared', 'in doubt', found(goodCommit, { prepared: ['hf_crash_x'] })],
    [
      'a commit below its prepare',
      'order',
      found(goodCommit, { branches: [{ transactionId: id, prepareTimestamp: '200' }] }),
    ],
    ['a record that contradicts', 'record', found(goodCommit, { records: aborted.records })],
    ['a decision that contradicts', 'decision', found(goodCommit, { decisions: aborted.decisions })],
    [
      'a decision with another timestamp',
      'decision',
      found(goodCommit, { decisions: [{ transactionId: id, outcome: 'COMMITTED', commitTimestamp: '201' }] }),
    ],
    ['a commit where none may be', 'outcome', { ...goodCommit, expected: 'aborted' }],
    ['an abort where none may be', 'outcome', { ...goodAbort, expected: 'committed' }],
    ['an acknowledged commit that is lost', 'lost', { ...goodAbort, mayTell: ['committed'], told: goodCommit.told }],
    ['a failure that is there', 'told', { ...goodCommit, mayTell: ['failed'], told: goodAbort.told }],
    ['a defect', 'defect', { ...goodAbort, told: { ...goodAbort.told, code: 'internal' } }],
    ['an answer that may not be told', 'told', { ...goodAbort, mayTell: ['unknown'] }],
    ['no id to ask with', 'told', { ...goodAbort, told: { ...unknown, transactionId: null } }],
    ['a reader that was shown the past', 'stale', reading({ before: ['a', 'b'], read: ['b'], after: ['a', 'b'] })],
    ['a reader of what was lost', 'vanished', reading({ before: ['a'], read: ['a', 'b'], after: ['a'] })],
    ['a reader that tells nothing', 'told', reading({ before: [], read: null, after: [] })],
    ['an answer that is wrong', 'asked', { ...goodCommit, asked: [{ transactionId: id, answers: ['aborted'] }] }],
    ['an answer that is none', 'asked', { ...goodAbort, asked: [{ transactionId: id, answers: ['in_doubt'] }] }],
    ['answers that change', 'asked', { ...goodAbort, asked: [{ transactionId: id, answers: ['refused', 'aborted'] }] }],
    ['a key that ran again', 'key', { ...goodCommit, repeated: [{ transactionId: other, replayed: false }] }],
    ['a key that tells of another', 'key', { ...goodCommit, repeated: [{ transactionId: other, replayed: true }] }],
    ['a key that forgot', 'key', { ...goodAbort, repeated: [...goodAbort.repeated].reverse() }],
    ['a settlement that changed something', 'twice', { ...goodCommit, foundAgain: { ...committed, decisions: [] } }],
    ['a step that is refused the second time', 'twice', { ...goodCommit, refusedAgain: ['settled once more'] }],
    ['a request that can never run', 'twice', { ...goodAbort, foundAgain: aborted }],
    ['a closed timestamp that stands still', 'closed', { ...goodCommit, notClosed: ['eu-west/left'] }],
  ]
  test.each(bad)('%s', (_name, kind, evidence) => {
    expect(checkCell(evidence).map((one) => one.kind)).toContain(kind)
  })
})
