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
const [setBack, fresh, young, old] = [-3_600_000, 249, 1_999, 2_000]
const ages = { settleAfterMs: 250, abortAfterMs: 2_000 }

test.each([
  ['commit', young, committed, 'COMMITTED', null, /record COMMITTED, which counts once a barrier has passed/],
  ['roll back', old, aborted, 'ABORTED', null, /record ABORTED, which counts once a barrier has passed/],
  ['wait', fresh, committed, 'COMMITTED', null, /record COMMITTED; left to its coordinator until it is 250 ms old/],
  [
    'wait',
    fresh,
    none,
    null,
    false,
    /no record; left to its coordinator until it is 250 ms old by the wall of us-east/,
  ],
  ['wait', setBack, aborted, 'ABORTED', null, /a resolver has seen it for as long. That wall was set back/],
  [
    'wait',
    young,
    { ...none, homeIsOpen: true },
    null,
    true,
    /holds eu-west\/payroll open; left to it until it is 2000 ms old by the wall of us-east\/treasury, or a resolver/,
  ],
  [
    'roll back',
    old,
    { ...none, homeIsOpen: true },
    null,
    true,
    /payroll is held open, by a coordinator that let the branch become 2000 ms old by the wall of us-east\/treasury: presumed/,
  ],
  ['roll back', young, none, null, false, /its part at eu-west\/payroll has ended: presumed aborted/],
  ['needs a person', old, { ...none, couldBeCollected: true }, null, false, /could have been collected/],
] as const)('%s, %i ms old, when home tells %o', (verdict, ageMs, heard, record, homeIsOpen, why) => {
  const explained = explainHeard({ name, ageMs }, heard, ages)
  expect(explained).toEqual({ verdict, record, homeIsOpen, why: expect.stringMatching(why) })
})
