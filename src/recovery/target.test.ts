import { describe, expect, test } from 'vitest'
import {
  decision,
  history,
  home,
  payroll,
  transactionId,
  treasury,
  unattributed,
} from '../../test/support/redo-values.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { isWithin, lastWithin, positionOf } from './position.ts'
import { formatTarget, parseTarget, parseTransactionName, requireReachable, resolveTarget } from './target.ts'

const histories = [
  history(payroll, [home(1, 10n, []), home(2, 20n, []), home(3, 30n, [])]),
  history(treasury, [
    home(4, 5n, []),
    unattributed(5n, []),
    unattributed(5n, []),
    decision(2, 20n, 5n),
    home(5, 20n, []),
  ]),
]

/** The commits that a target keeps, as `index of shard.index of commit`. */
function kept(text: Parameters<typeof parseTarget>[0]): string[] {
  const bound = resolveTarget(parseTarget(text), histories)
  return histories.flatMap(({ transactions }, shard) =>
    transactions.flatMap((transaction, index) =>
      transaction.identity.kind !== 'platform' && isWithin(bound, positionOf(transaction)) ? [`${shard}.${index}`] : [],
    ),
  )
}

describe('recovery targets', () => {
  test('R1: just before a transaction keeps everything below it on every shard, ties broken by the id', () => {
    expect(kept({ before: transactionId(2) })).toEqual(['0.0', '1.0', '1.1', '1.2'])
    expect(kept({ before: transactionId(5) })).toEqual(['0.0', '0.1', '1.0', '1.1', '1.2'])
  })

  test('R1: just before an unattributed commit keeps what was in the log before it', () => {
    expect(kept({ before: 'us-east/treasury@0/78' })).toEqual(['1.0', '1.1'])
    expect(kept({ before: 'us-east/treasury@0/6e' })).toEqual(['1.0'])
  })

  test('at a timestamp, and at a timestamp with an id, keep what is at or below', () => {
    expect(kept({ at: '20' })).toEqual(['0.0', '0.1', '1.0', '1.1', '1.2', '1.4'])
    expect(kept({ at: `20,${transactionId(2)}` })).toEqual(['0.0', '0.1', '1.0', '1.1', '1.2'])
  })

  test('all of a timestamp is within a bound up to the one below the transaction, or none before the first stamp', () => {
    const early = [history(payroll, [unattributed(0n, []), home(1, 10n, [])])]
    const last = (before: string) => lastWithin(resolveTarget(parseTarget({ before }), early))
    expect(last(transactionId(1))).toBe(9n)
    expect(last('eu-west/payroll@0/64')).toBe(0n)
  })

  test('a UTC time keeps the whole of its millisecond', () => {
    const bound = resolveTarget(parseTarget({ at: '2026-04-02T10:14:00.000Z' }), histories)
    const ms = hlcFromWallMs(Date.parse('2026-04-02T10:14:00.000Z'))
    const at = (timestamp: bigint) =>
      isWithin(bound, { kind: 'stamped', timestamp: timestamp as Hlc, transactionId: transactionId(1) })
    expect([at(ms), at(ms + 0xffffn), at(ms + 0x1_0000n)]).toEqual([true, true, false])
  })

  test('the end keeps everything', () => {
    expect(kept({ at: 'end' })).toHaveLength(7)
  })

  test('a target is written back in the form that it was given in', () => {
    for (const at of ['2026-04-02T10:00:05.120Z+0003', `2026-04-02T10:00:05.120Z+0003,${transactionId(1)}`]) {
      expect(formatTarget(parseTarget({ at }))).toBe(`at ${at}`)
    }
    expect(formatTarget(parseTarget({ at: '2026-04-02T10:00Z' }))).toBe('at 2026-04-02T10:00:00.000Z')
    expect(formatTarget(parseTarget({ before: transactionId(1) }))).toBe(`before ${transactionId(1)}`)
  })

  test.each([
    [{}, 'either before or at'],
    [{ before: 'x', at: 'y' }, 'not both'],
    [{ before: 'apr-2026' }, 'not the name of a transaction'],
    [{ before: "us-east/treasury@0/1'; drop" }, 'not the name of a transaction'],
    [{ at: 'yesterday' }, 'not an HLC timestamp'],
    [{ at: '20,nobody' }, 'not a transaction id'],
    [{ at: '9999-12-31' }, 'no time to restore to'],
    [{ at: '6500-01-01T00:00:00Z' }, 'no time to restore to'],
    [{ at: '1960-01-01' }, 'no time to restore to'],
    [{ at: '2026-02-31' }, 'no time to restore to'],
    [{ at: '2026-02-30T10:14Z' }, 'no time to restore to'],
    [{ at: '2026-04-02T24:00Z' }, 'no time to restore to'],
    [{ at: '2026-13-01' }, 'no time to restore to'],
    [{ at: '2026-02-31T10:00:00.000Z+0000' }, 'not an HLC timestamp'],
  ])('refuses %j', (text, message) => {
    const refused = expect.objectContaining({ code: 'argument_invalid', message: expect.stringContaining(message) })
    expect(() => parseTarget(text)).toThrow(refused)
  })

  test.each(['1970-01-01', '6429-10-17T02:45:55.326Z', '2028-02-29T10:14:00.5Z'])(
    'takes %s, and has a bound for it',
    (at) => {
      expect(() => resolveTarget(parseTarget({ at }), histories)).not.toThrow()
    },
  )

  test('names are taken in the form that they are printed in', () => {
    expect(parseTransactionName(transactionId(1).toUpperCase())).toBe(transactionId(1))
    expect(parseTransactionName('us-east/treasury@0/00ab')).toBe('us-east/treasury@0/AB')
  })

  test('a transaction that no archive has is unknown', () => {
    expect(() => resolveTarget(parseTarget({ before: transactionId(99) }), histories)).toThrow('no archive has')
  })
})

describe('reach of the archives', () => {
  const behind = [history(payroll, [home(1, 10n, [])]), history(treasury, [home(4, 5n, [])], 15n)]

  test('R6: a target above the least closed timestamp is refused, and the bound is said', () => {
    expect(() => requireReachable({ kind: 'timestamp', timestamp: 15n as Hlc }, behind)).not.toThrow()
    expect(() => requireReachable({ kind: 'timestamp', timestamp: 16n as Hlc }, behind)).toThrow(
      /lies above 1970-01-01T00:00:00.000Z\+000f, up to where the archive of us-east\/treasury is closed/,
    )
  })

  test('R6: the end has no bound', () => {
    expect(() => requireReachable({ kind: 'end' }, behind)).not.toThrow()
  })

  test('A4: a target on the far side of a hole in a redo stream is refused', () => {
    const whole = history(payroll, [home(1, 10n, []), home(2, 20n, [])])
    const holed = [{ ...whole, redo: { ...whole.redo, from: 90n as Lsn } }]
    expect(() => requireReachable({ kind: 'timestamp', timestamp: 9n as Hlc }, holed)).toThrow('begins at 0/5A')
    expect(() => requireReachable({ kind: 'timestamp', timestamp: 10n as Hlc }, holed)).not.toThrow()
  })
})
