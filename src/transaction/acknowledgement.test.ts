import { describe, expect, it } from 'vitest'
import type { StatementOutcome } from '../postgres/statement.ts'
import { ServerError } from '../postgres/failure.ts'
import { judgeCommit, judgePrepare, judgeReading } from './acknowledgement.ts'

const result = (tag: string, rows: Record<string, unknown>[] = [], warning?: string): StatementOutcome => ({
  ok: true,
  rows,
  fields: [],
  rowCount: rows.length,
  tag,
  warnings: warning === undefined ? [] : [{ code: warning, message: 'canceling wait for synchronous replication' }],
})

function refusal(sqlState: string): StatementOutcome {
  const cause = Object.assign(new Error('refused'), { code: sqlState })
  return { ok: false, error: new ServerError(cause as ConstructorParameters<typeof ServerError>[0]) }
}

const stamped = result('SELECT', [{ stamp: '7', settings: '10:00:00.5' }])
const position = result('SELECT', [{ position: '0/10', settings: '10:00:00.5' }])
const reloaded = result('SELECT', [{ position: '0/10', settings: '10:00:01.5' }])

describe('an answer to COMMIT', () => {
  const cases: [string, StatementOutcome[], string][] = [
    ['the stamp, the tag and no warning', [stamped, result('COMMIT'), position], 'acknowledged'],
    ['HZ-S1: a cancelled wait for followers', [stamped, result('COMMIT', [], '01000'), position], 'unanswered'],
    ['HZ-S1: a terminated wait for followers', [stamped, result('COMMIT', [], '57P01'), position], 'unanswered'],
    ['HZ-S5: settings that changed since the stamp', [stamped, result('COMMIT'), reloaded], 'unanswered'],
    ['HZ-P2: an aborted transaction', [stamped, result('ROLLBACK'), position], 'refused'],
    ['a stamp that raised', [refusal('HF003'), result('ROLLBACK'), position], 'refused'],
    [
      'a BEGIN that failed: the stamp raises, COMMIT warns',
      [refusal('HF005'), result('COMMIT', [], '25P01'), position],
      'refused',
    ],
    ['a serialization failure at COMMIT', [stamped, refusal('40001'), position], 'refused'],
    ['a server that ends', [stamped, refusal('57P01'), position], 'unanswered'],
    ['an internal error', [stamped, refusal('XX000'), position], 'unanswered'],
    ['no position', [stamped, result('COMMIT'), refusal('57P01')], 'unanswered'],
    ['nothing', [], 'refused'],
  ]
  for (const [name, outcomes, expected] of cases) {
    it(`${name}: ${expected}`, () => expect(judgeCommit(outcomes).kind).toBe(expected))
  }
})

describe('an answer to PREPARE TRANSACTION', () => {
  const cases: [string, StatementOutcome[], string][] = [
    ['the branch, the tag and no warning', [stamped, result('PREPARE'), position], 'yes'],
    ['HZ-S1: a cancelled wait for followers', [stamped, result('PREPARE', [], '01000'), position], 'may stand'],
    ['HZ-S5: settings that changed since the branch', [stamped, result('PREPARE'), reloaded], 'may stand'],
    ['HZ-P2: an aborted transaction', [stamped, result('ROLLBACK'), position], 'no'],
    ['a branch row that raised', [refusal('HF008'), result('ROLLBACK'), position], 'no'],
    ['HZ-X6: what cannot be prepared', [stamped, refusal('0A000'), position], 'no'],
    ['a gid that is taken', [stamped, refusal('42710'), position], 'no'],
    ['no slot for it', [stamped, refusal('53400'), position], 'no'],
    ['a server that ends', [stamped, refusal('57P01'), position], 'may stand'],
    ['no position', [stamped, result('PREPARE'), refusal('57P01')], 'may stand'],
  ]
  for (const [name, outcomes, expected] of cases) {
    it(`${name}: ${expected}`, () => expect(judgePrepare(outcomes).kind).toBe(expected))
  }
})

describe('an answer to who only read', () => {
  const concluded = result('SELECT', [{ clock: '7' }])
  const cases: [string, StatementOutcome[], string][] = [
    ['the clock and the tag', [concluded, result('COMMIT')], 'read'],
    ['HZ-P2: an aborted transaction', [concluded, result('ROLLBACK')], 'no'],
    ['an authority that is gone', [refusal('HF003'), refusal('HF003')], 'no'],
    ['a serialization failure at COMMIT', [concluded, refusal('40001')], 'no'],
    ['no transaction to commit', [concluded, result('COMMIT', [], '25P01')], 'no'],
    ['nothing', [], 'no'],
  ]
  for (const [name, outcomes, expected] of cases) {
    it(`${name}: ${expected}`, () => expect(judgeReading(outcomes).kind).toBe(expected))
  }
})
