import { expect, test } from 'vitest'
import type { InDoubtView } from '../../fleet/operations-api.ts'
import { inDoubtFindings } from './doctor.ts'

const branch: InDoubtView = {
  gid: 'hf_payledger_eu-west/payroll_019d4d4e-0000-7000-8000-000000000000_us-east/treasury',
  transactionId: '019d4d4e-0000-7000-8000-000000000000',
  home: 'eu-west/payroll',
  participant: 'us-east/treasury',
  ageMs: 29_999.4,
  record: null,
  homeIsOpen: true,
  verdict: 'wait',
  why: 'its coordinator is on its way',
}

test('a branch in doubt is a warning; one that is old, or waits for a person, is a problem', () => {
  const found = inDoubtFindings([branch, { ...branch, ageMs: 30_000 }, { ...branch, verdict: 'needs a person' }])
  expect(found.map(({ status }) => status)).toEqual(['warning', 'problem', 'problem'])
  expect(found[0]?.detail).toBe(`${branch.gid}, 29999 ms old: wait: its coordinator is on its way`)
})
