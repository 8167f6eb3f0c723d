import { describe, expect, test } from 'vitest'
import type { RowChange } from '../archive/redo-transaction.ts'
import type { Hlc } from '../hlc/hlc.ts'
import {
  branch,
  history,
  home,
  insert,
  payroll,
  remove,
  shape,
  transactionId,
  treasury,
  unattributed,
  update,
} from '../../test/support/redo-values.ts'
import type { Exclusion } from './exclusion.ts'
import { closeExclusion, describeConflict, requireAccepted } from './exclusion.ts'

const accounts = 'public.accounts'
const holds = 'public.holds'
const toAccount = { name: 'fk', columns: ['account'], references: accounts, referencedColumns: ['id'] }
const shapes = new Map([
  [accounts, shape('accounts', ['id', 'cents'])],
  [holds, shape('holds', ['id', 'account', 'cents'], [toAccount])],
])
const shapesOf = new Map([payroll, treasury].map((shard) => [shard, shapes]))
const account = (id: string, cents = '0') => ({ id, cents })
const hold = (id: string, of: string, cents = '5') => ({ id, account: of, cents })
const bound = { kind: 'timestamp', timestamp: 1_000n as Hlc } as const

function close(
  commits: readonly (readonly RowChange[])[],
  without: number,
  of = [
    history(
      payroll,
      commits.map((changes, i) => home(i, BigInt(10 + i), [...changes])),
    ),
  ],
) {
  return closeExclusion(of, shapesOf, [transactionId(without)], bound)
}

function dragged(exclusion: Exclusion): string[] {
  return exclusion.dragged.map(({ subject, because }) => `${subject} ${because.kind}`)
}

describe('replay without', () => {
  test('R5: a later change of the same row is dragged along, and those that depend on it', async () => {
    const exclusion = await close(
      [
        [insert(accounts, account('a')), insert(accounts, account('b'))],
        [update(accounts, account('a'), { cents: '1' })],
        [update(accounts, account('a', '1'), { cents: '2' }), update(accounts, account('b'), { cents: '3' })],
        [update(accounts, account('b', '3'), { cents: '4' })],
      ],
      1,
    )
    expect(dragged(exclusion)).toEqual(['run-2 row', 'run-3 row'])
    const [first] = exclusion.dragged
    expect(first && describeConflict(first.because)).toBe(
      `changes public.accounts(id="a"), which ${transactionId(1)} changed before`,
    )
  })

  test('R5: approvals around a clean-up job that deleted other rows all stay', async () => {
    const exclusion = await close(
      [
        [insert(accounts, account('a')), insert(holds, hold('1', 'a'))],
        [remove(holds, hold('1', 'a'))],
        [insert(holds, hold('2', 'a'))],
      ],
      1,
    )
    expect(exclusion.dragged).toEqual([])
    expect(() => requireAccepted(exclusion)).not.toThrow()
  })

  test('R5: a row that refers to one which an excluded transaction inserted is dragged along', async () => {
    const commits = [[insert(accounts, account('a'))], [insert(holds, hold('1', 'a'))]]
    expect(dragged(await close(commits, 0))).toEqual(['run-1 parent'])
  })

  test('R5: the removal of a row to which an undeleted one would refer is dragged along', async () => {
    const exclusion = await close(
      [
        [insert(accounts, account('a')), insert(holds, hold('1', 'a'))],
        [remove(holds, hold('1', 'a'))],
        [remove(accounts, account('a'))],
      ],
      1,
    )
    expect(dragged(exclusion)).toEqual(['run-2 child'])
  })

  test('R5: a row that is put back under its key is in the way of the one that was never removed', async () => {
    const commits = [
      [insert(accounts, account('a'))],
      [remove(accounts, account('a'))],
      [insert(accounts, account('a', '9'))],
    ]
    expect(dragged(await close(commits, 1))).toEqual(['run-2 row'])
  })

  test('an excluded change that another excluded one takes back leaves no trace', async () => {
    const commits = [
      [insert(accounts, account('a'))],
      [update(accounts, account('a'), { cents: '7' })],
      [update(accounts, account('a', '7'), { cents: '0' })],
      [update(accounts, account('a'), { cents: '8' })],
    ]
    const histories = [
      history(
        payroll,
        commits.map((changes, i) => home(i, BigInt(10 + i), changes)),
      ),
    ]
    const exclusion = await closeExclusion(histories, shapesOf, [transactionId(1), transactionId(2)], bound)
    expect(exclusion.dragged).toEqual([])
  })

  test('R5: a global transaction goes with all its branches, whichever shard is walked first', async () => {
    // On treasury the branch of 2 changes what 9 changed; on payroll, walked before, 3 changes what 2 inserted.
    const exclusion = await closeExclusion(
      [
        history(payroll, [
          home(2, 20n, [insert(accounts, account('x'))], [treasury]),
          home(3, 30n, [update(accounts, account('x'), { cents: '1' })]),
        ]),
        history(treasury, [
          unattributed(0n, [insert(accounts, account('a'))]),
          branch(2, 20n, [update(accounts, account('a'), { cents: '1' })]),
        ]),
      ],
      shapesOf,
      ['us-east/treasury@0/64'],
      bound,
    )
    expect(exclusion.dragged.map(({ subject, shard, shards }) => [subject, shard, shards])).toEqual([
      ['run-2', treasury, [payroll, treasury]],
      ['run-3', payroll, [payroll]],
    ])
  })

  test('HZ-R4: later transactions that stay and touch the same keys, or refer to the same rows, are listed for review', async () => {
    const exclusion = await close(
      [
        [insert(accounts, account('a')), insert(accounts, account('b')), insert(holds, hold('1', 'a'))],
        [remove(holds, hold('1', 'a'))],
        [insert(holds, hold('2', 'a'))],
        [insert(holds, hold('3', 'b'))],
      ],
      1,
    )
    expect(exclusion.review.map(({ subject, touches }) => [subject, touches])).toEqual([
      ['run-2', ['public.accounts(id="a")']],
    ])
  })

  test('HZ-R4: after a table was emptied, later transactions on it are listed, since the stream does not say which rows', async () => {
    const exclusion = await close([[{ op: 'truncate', relation: holds }], [insert(holds, hold('9', 'a'))]], 0)
    expect(exclusion.dragged).toEqual([])
    expect(exclusion.review.map(({ subject }) => subject)).toEqual(['run-1'])
  })

  test('R5: a table that is emptied while it would have rows left over is dragged along', async () => {
    const commits: RowChange[][] = [
      [insert(holds, hold('1', 'a'))],
      [remove(holds, hold('1', 'a'))],
      [{ op: 'truncate', relation: holds }],
    ]
    expect(dragged(await close(commits, 1))).toEqual(['run-2 truncate'])
  })

  test('redo_conflict names what was dragged; naming it as excluded too is the acceptance', async () => {
    const commits = [[insert(accounts, account('a'))], [insert(holds, hold('1', 'a'))]]
    const exclusion = await close(commits, 0)
    expect(() => requireAccepted(exclusion)).toThrow(transactionId(1))
    const histories = [
      history(
        payroll,
        commits.map((changes, i) => home(i, BigInt(10 + i), changes)),
      ),
    ]
    const accepted = await closeExclusion(histories, shapesOf, [...exclusion.closure.keys()], bound)
    expect(() => requireAccepted(accepted)).not.toThrow()
  })

  test('a transaction behind what all archives hold cannot be left out yet', async () => {
    const late = [history(payroll, [home(0, 2_000n, [insert(accounts, account('a'))])])]
    await expect(close([], 0, late)).rejects.toThrow('lies behind what all archives hold')
  })
})
