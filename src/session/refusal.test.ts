import { expect, test } from 'vitest'
import { historyNumber, hlc, lsn, payroll, transaction } from '../../test/support/session-values.ts'
import type { ErrorCode } from '../base/errors.ts'
import type { Epoch, NodeId } from '../directory/topology.ts'
import type { Verdict } from './proof.ts'
import { refusalFor } from './refusal.ts'

type Refused = Exclude<Verdict, { kind: 'proven' }>
const by = { shard: payroll, node: 'eu-west/payroll.2' as NodeId, retryAfterMs: 50 }
const ref = (epoch: number) => ({ historyId: historyNumber(epoch), epoch: epoch as Epoch })
const ids = [transaction(1), transaction(2)]

const cases: [Refused, ErrorCode, RegExp][] = [
  [
    { kind: 'behind', missing: { what: 'position', demanded: lsn(0x3000), reached: lsn(0x2000), lagBytes: 0x1000n } },
    'frontier_not_reached',
    /eu-west\/payroll\.2 has replayed up to 0\/2000, 4096 bytes before 0\/3000/,
  ],
  [{ kind: 'behind', missing: { what: 'transactions', transactionIds: ids } }, 'frontier_not_reached', /does not show/],
  [
    {
      kind: 'behind',
      missing: { what: 'closed_timestamp', demanded: hlc(131_072), reached: hlc(0), lagMs: 2 },
    },
    'frontier_not_reached',
    /2 ms before 1970-01-01T00:00:00.002Z\+0000/,
  ],
  [{ kind: 'not_primary' }, 'frontier_not_reached', /not the primary/],
  [{ kind: 'history_unknown', demanded: ref(2), current: ref(1) }, 'frontier_not_reached', /epoch 1 .* epoch 2/],
  [{ kind: 'placement_stale', late: 'node', routed: 2, found: 1 }, 'frontier_not_reached', /placement version 2/],
  [{ kind: 'placement_stale', late: 'directory', routed: 1, found: 2 }, 'placement_stale', /version 2, not 1/],
  [{ kind: 'write_lost', transactionIds: ids, current: ref(2) }, 'write_lost', /lost transactions .*0001, .*0002/],
  [
    { kind: 'history_rewritten', leftOut: ids, own: [transaction(2)], current: ref(2) },
    'history_rewritten',
    /left 2 transactions out .* 1 of them of this session/,
  ],
  [{ kind: 'history_changed', demanded: ref(1), current: ref(2) }, 'history_changed', /epoch 1 .* epoch 2/],
]

const named = cases.map(([verdict, code, message]) => ({ kind: verdict.kind, verdict, code, message }))

test.each(named)('$kind is told as $code: $message', ({ verdict, code, message }) => {
  const error = refusalFor(verdict, by)
  expect(error.code).toBe(code)
  expect(error.message).toMatch(message)
  expect(error.hint).toMatch(/\w/)
  expect(error.detail).toMatchObject(by)
  expect(() => JSON.stringify(error.detail)).not.toThrow()
})

test('S11: the lists travel in the detail of the error', () => {
  const lost = refusalFor({ kind: 'write_lost', transactionIds: ids, current: ref(2) }, by)
  expect(lost.detail).toMatchObject({ transactionIds: ids, current: ref(2) })
  const rewritten = refusalFor({ kind: 'history_rewritten', leftOut: ids, own: ids.slice(1), current: ref(2) }, by)
  expect(rewritten.detail).toMatchObject({ transactionIds: ids, own: ids.slice(1) })
})
