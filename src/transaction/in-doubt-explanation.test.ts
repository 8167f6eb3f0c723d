import { expect, test } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import { explainHeard } from './in-doubt-explanation.ts'

const name = {
  home: 'eu-west/payroll' as ShardName,
  participant: 'us-east/treasury' as ShardName,
  transactionId: '019d4d4e-0000-7000-8000-000000000000' as TransactionId,
}
const none = { kind: 'no record', homeIsOpen: false, couldBeCollected: false } as const
const committed = { kind: 'record', decision: { outcome: 'COMMITTED', commitTimestamp: toHlc(7n) } } as const
const aborted = { kind: 'record', decision: { outcome: 'ABORTED' } } as const
const [young, old] = [1_999, 2_000]

test.each([
  ['commit', young, committed, 'COMMITTED', null, /record COMMITTED, which counts once a barrier has passed/],
  ['roll back', old, aborted, 'ABORTED', null, /record ABORTED, which counts once a barrier has passed/],
  ['wait', young, { ...none, homeIsOpen: true }, null, true, /its coordinator is on its way/],
  [
    'roll back',
    old,
    { ...none, homeIsOpen: true },
    null,
    true,
    /holds eu-west\/payroll open, for more than 2000 ms: presumed aborted/,
  ],
  ['roll back', young, none, null, false, /its part at eu-west\/payroll has ended: presumed aborted/],
  ['needs a person', old, { ...none, couldBeCollected: true }, null, false, /could have been collected/],
] as const)('%s, %i ms old, when home tells %o', (verdict, ageMs, heard, record, homeIsOpen, why) => {
  const explained = explainHeard({ name, ageMs }, heard, 2_000)
  expect(explained).toEqual({ verdict, record, homeIsOpen, why: expect.stringMatching(why) })
})
