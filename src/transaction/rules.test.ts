import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { ErrorCode } from '../base/errors.ts'
import { HoldfastError } from '../base/errors.ts'
import type { StatementOutcome } from '../postgres/statement.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { hashRequest, keepValue } from './idempotency.ts'
import { transactionLimitsDefault } from './environment.ts'
import type { NextAttempt } from './retry.ts'
import { nextAttempt } from './retry.ts'
import { judgeSettlement } from './settlement.ts'
import { codeOfSqlState, journalReason, toHoldfastError } from './sql-errors.ts'

/** The small pure rules of a transaction. */

const place = { shard: 'eu-west/payroll', transactionId: 't' }

function serverError(code: string, message = 'refused'): ServerError {
  const cause = Object.assign(new Error(message), { code })
  return new ServerError(cause as ConstructorParameters<typeof ServerError>[0])
}

describe('what comes after a failed attempt', () => {
  it('T8: is another one only when nothing was written, and never without a bound', () => {
    expect(nextAttempt(undefined, 1, 0, 5).kind).toBe('give up')
    expect(nextAttempt('constraint_violated', 1, 0, 5).kind).toBe('give up')
    expect(nextAttempt('outcome_ambiguous', 1, 0, 5).kind).toBe('give up')
    const once = [
      'placement_stale',
      'placement_denied',
      'shard_fenced',
      'node_unavailable',
      'transaction_aborted',
    ] as const
    for (const code of once) {
      expect(nextAttempt(code, 1, 0, 5).kind).toBe('refresh')
      expect(nextAttempt(code, 2, 1, 5).kind).toBe('give up')
    }
    const pauses = Array.from({ length: 6 }, (_, index) => nextAttempt('serialization_failure', index + 1, 0, 5))
    expect(pauses.map((pause) => (pause.kind === 'pause' ? pause.pauseMsMax : pause.kind))).toEqual([
      10,
      20,
      40,
      80,
      160,
      'give up',
    ])
  })

  const anyCode = fc.constantFrom<(ErrorCode | undefined)[]>(
    'serialization_failure',
    'lock_timeout',
    'statement_outdated',
    'placement_stale',
    'node_unavailable',
    'transaction_aborted',
    'constraint_violated',
    undefined,
  )
  /** What follows each failure of a transaction that would fail for ever. */
  const follow = (codes: readonly (ErrorCode | undefined)[], retriesMax: number) => {
    const steps: NextAttempt[] = []
    for (let refreshes = 0; ; ) {
      const next = nextAttempt(codes[steps.length % codes.length], steps.length + 1, refreshes, retriesMax)
      steps.push(next)
      if (next.kind === 'refresh') refreshes += 1
      if (next.kind === 'give up') return steps
    }
  }
  const property = (check: (steps: NextAttempt[], retriesMax: number) => void) =>
    fc.assert(
      fc.property(fc.array(anyCode, { minLength: 1, maxLength: 12 }), fc.integer({ min: 0, max: 12 }), (codes, max) =>
        check(follow(codes, max), max),
      ),
    )

  it('T8: comes at most once by a refresh, and by a pause at most as often as it may', () => {
    property((steps, retriesMax) => {
      expect(steps.filter(({ kind }) => kind === 'refresh').length).toBeLessThanOrEqual(1)
      expect(steps.filter(({ kind }) => kind === 'pause').length).toBeLessThanOrEqual(retriesMax)
      expect(steps.length).toBeLessThanOrEqual(retriesMax + 2)
    })
  })

  it('T8: pauses below a bound that doubles from 10 ms and stays at 200, so that all of them end within a time', () => {
    property((steps, retriesMax) => {
      const bounds = steps.flatMap((next, index) => (next.kind === 'pause' ? [[index, next.pauseMsMax] as const] : []))
      for (const [index, pauseMsMax] of bounds) expect(pauseMsMax).toBe(Math.min(200, 10 * 2 ** index))
      const total = bounds.reduce((sum, [, pauseMsMax]) => sum + pauseMsMax, 0)
      expect(total).toBeLessThanOrEqual(retriesMax * 200)
      if (retriesMax === transactionLimitsDefault.serializationRetriesMax) expect(total).toBeLessThanOrEqual(310)
    })
  })
})

describe('refusals of PostgreSQL', () => {
  it('have a code each, and Holdfast’s own have one of their own', () => {
    for (const [name, state] of Object.entries(sqlState)) {
      if (state.startsWith('HF')) expect(codeOfSqlState(state), name).not.toBe('statement_failed')
    }
    expect(codeOfSqlState('23505')).toBe('constraint_violated')
    expect(codeOfSqlState('40P01')).toBe('serialization_failure')
    expect(codeOfSqlState('53300')).toBe('node_unavailable')
    expect(codeOfSqlState('53100')).toBe('disk_full')
    expect(codeOfSqlState('22012')).toBe('statement_failed')
  })

  it('keep PostgreSQL’s message with its SQLSTATE, and an error of ours as it is', () => {
    expect(toHoldfastError(serverError('22012', 'division by zero'), place).message).toBe(
      'division by zero (SQLSTATE 22012)',
    )
    const own = new HoldfastError('transaction_refused', 'no')
    expect(toHoldfastError(own, place)).toBe(own)
    expect(toHoldfastError(new ConnectionLost('gone', true), place).code).toBe('node_unavailable')
    expect(toHoldfastError('?', place).code).toBe('internal')
  })

  it('leave no value of a row in the journal', () => {
    const error = toHoldfastError(serverError('22P02', 'invalid input syntax for type integer: "DE89 3704"'), place)
    expect(journalReason(error)).toEqual({ code: 'statement_failed', reason: 'SQLSTATE 22P02' })
    expect(journalReason(new Error('salary of Ada is 7'))).toEqual({ code: 'application_error', reason: 'Error' })
    expect(journalReason('salary')).toEqual({ code: 'application_error', reason: 'the function threw' })
  })
})

describe('an idempotency key', () => {
  const request = { tenant: 'a', action: 'b', subject: 'c', actor: 'd' }
  const hash = (more: object) => Buffer.from(hashRequest({ ...request, ...more })).toString('hex')

  it('stands for the request, not for how it was written', () => {
    expect(hash({ request: { x: 1, y: [{ b: 1, a: 2 }] } })).toBe(hash({ request: { y: [{ a: 2, b: 1 }], x: 1 } }))
    expect(hash({ idempotencyKey: 'k', isolation: 'serializable' })).toBe(hash({}))
    for (const other of [{ request: { x: 2 } }, { tenant: 'A' }, { actor: '' }, { subject: 'bc', action: '' }]) {
      expect(hash(other)).not.toBe(hash({}))
    }
  })

  it('keeps a value as JSON has it, for the first use too', () => {
    expect(keepValue({ at: new Date(0), n: undefined })).toEqual({
      value: { at: '1970-01-01T00:00:00.000Z' },
      json: '{"at":"1970-01-01T00:00:00.000Z"}',
    })
    expect(keepValue(undefined)).toEqual({ value: null, json: 'null' })
    expect(() => keepValue(1n)).toThrow(expect.objectContaining({ code: 'argument_invalid' }))
  })
})

describe('a settlement', () => {
  const done: StatementOutcome = { ok: true, rows: [], fields: [], rowCount: 0, tag: 'COMMIT', warnings: [] }
  const refused = (code: string): StatementOutcome => ({ ok: false, error: serverError(code) })

  it('S3: is done when the row shows it, and "does not exist" alone is no success', () => {
    const cases: [Parameters<typeof judgeSettlement>, string][] = [
      [['COMMITTED', done, true], 'settled'],
      [['COMMITTED', refused('42704'), true], 'settled'],
      [['COMMITTED', refused('42704'), false], 'missing'],
      [['COMMITTED', done, false], 'missing'],
      [['COMMITTED', refused('55000'), false], 'busy'],
      [['COMMITTED', refused('42501'), false], 'failed'],
      [['ABORTED', done, false], 'settled'],
      [['ABORTED', refused('42704'), false], 'settled'],
      [['ABORTED', refused('42704'), true], 'contradicted'],
      [['ABORTED', refused('55000'), false], 'busy'],
    ]
    for (const [args, expected] of cases) expect(judgeSettlement(...args).kind).toBe(expected)
  })
})
