import { describe, expect, test } from 'vitest'
import type { Checks, DrillReport, Gate } from './drill-report.ts'
import { checkClasses, driftBetween, gateNames, verdictOf } from './drill-report.ts'

const gates: Gate[] = gateNames.map((name) => ({ name, ok: true, durationMs: 100, detail: '' }))
const held = { name: 'it holds', ok: true, detail: '' }
const checks: Checks = { storage: [held], data: [held], cutover: [held] }
const report: DrillReport = {
  id: 'a',
  takenAt: '',
  target: '',
  coveredThrough: '0',
  shards: [],
  excluded: [],
  review: [],
  gates,
  rtoMs: 600,
  rpoMs: 10,
  checks,
  verdict: 'passed',
}

describe('the verdict of a drill', () => {
  test('passes when all six gates and all three classes of checks do', () => {
    expect(verdictOf(gates, checks)).toBe('passed')
  })

  test.each(gateNames)('fails without the gate %s', (name) => {
    expect(
      verdictOf(
        gates.filter((gate) => gate.name !== name),
        checks,
      ),
    ).toBe('failed')
    expect(
      verdictOf(
        gates.map((gate) => (gate.name === name ? { ...gate, ok: false } : gate)),
        checks,
      ),
    ).toBe('failed')
  })

  test.each(checkClasses)('fails when %s was not checked, or one of its checks does not hold', (name) => {
    expect(verdictOf(gates, { ...checks, [name]: [] })).toBe('failed')
    expect(verdictOf(gates, { ...checks, [name]: [held, { ...held, ok: false }] })).toBe('failed')
  })
})

describe('drift', () => {
  test('shows what took longer, and what held before and holds no more', () => {
    const later: DrillReport = {
      ...report,
      rtoMs: 900,
      rpoMs: 5,
      gates: gates.map((gate) => (gate.name === 'replay' ? { ...gate, durationMs: 400 } : gate)),
      checks: {
        ...checks,
        data: [
          { ...held, ok: false },
          { name: 'new', ok: false, detail: '' },
        ],
      },
    }
    expect(driftBetween(report, later)).toEqual({
      rtoMs: 300,
      rpoMs: -5,
      gates: gateNames.map((name) => ({ name, byMs: name === 'replay' ? 300 : 0 })),
      broken: ['data: it holds'],
    })
  })
})
