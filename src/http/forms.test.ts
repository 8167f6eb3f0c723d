import { describe, expect, test } from 'vitest'
import { inForm, readForm, timelineQuery, transactionForm } from './forms.ts'
import { bodyLevelsMax } from './http.ts'

const transaction = {
  tenant: 'globex-eu',
  action: 'payroll.approve',
  subject: 'apr-2026',
  actor: 'manager@globex.example',
  statements: [{ domain: 'payroll', text: 'select 1' }],
}

describe('the body of a transaction', () => {
  test('is filled with what may be left out', () => {
    expect(inForm(transactionForm, transaction, 'body')).toEqual({
      ...transaction,
      statements: [{ domain: 'payroll', text: 'select 1', values: [], batch: false }],
      events: [],
    })
  })

  test.each([
    ['nothing', undefined, 'body: '],
    ['no tenant', { ...transaction, tenant: undefined }, 'tenant: '],
    ['an empty actor', { ...transaction, actor: '' }, 'actor: '],
    ['no statement', { ...transaction, statements: [] }, 'statements: '],
    ['an unknown key', { ...transaction, tenants: 'x' }, 'tenants'],
    [
      'an unknown key of a statement',
      { ...transaction, statements: [{ domain: 'd', text: 't', value: [] }] },
      'statements.0',
    ],
    ['an unknown isolation', { ...transaction, isolation: 'chaos' }, 'isolation: '],
  ])('with %s is refused, and the place is named', (_, body, place) => {
    const refused = expect(() => inForm(transactionForm, body, 'body'))
    refused.toThrow(expect.objectContaining({ code: 'argument_invalid', message: expect.stringContaining(place) }))
  })
})

test('values as deep as a body may be are in their form', () => {
  const deep = JSON.parse('['.repeat(bodyLevelsMax) + ']'.repeat(bodyLevelsMax)) as unknown
  const [statement] = transaction.statements
  const body = { ...transaction, statements: [{ ...statement, values: [deep] }] }
  expect(inForm(transactionForm, body, 'body')).toMatchObject(body)
})

describe('the body of a read', () => {
  test('asks for a session read, and leaves the wait to its level, when it does not say', () => {
    const read = inForm(readForm, { tenant: 't', queries: [{ domain: 'd', text: 'select 1' }] }, 'body')
    expect(read).toMatchObject({ level: 'session', snapshot: false })
  })

  test('with a wait that is no whole number of milliseconds is refused', () => {
    for (const waitMs of [-1, 1.5, 60_001, '50']) {
      const body = { tenant: 't', waitMs, queries: [{ domain: 'd', text: 'select 1' }] }
      expect(() => inForm(readForm, body, 'body')).toThrow(expect.objectContaining({ code: 'argument_invalid' }))
    }
  })
})

describe('the query of the timeline', () => {
  test('has a limit of 100 when it does not say, and takes one as text', () => {
    expect(inForm(timelineQuery, {}, 'query').limit).toBe(100)
    expect(inForm(timelineQuery, { limit: '7' }, 'query').limit).toBe(7)
  })

  test('with a limit that is none is refused', () => {
    for (const limit of ['0', '1001', 'x', '1.5']) {
      expect(() => inForm(timelineQuery, { limit }, 'query')).toThrow(
        expect.objectContaining({ code: 'argument_invalid' }),
      )
    }
  })
})
