import { describe, expect, test } from 'vitest'
import { loadInvariants, parseInvariant } from './invariant.ts'

const valid = `-- name: one-hold
-- severity: critical
-- needs: payroll(payroll_runs: tenant, id; payroll_items: tenant, run_id), treasury(treasury_holds: run_id)
-- Every approved run has one hold: this line is prose.
select tenant, id from payroll_runs;
`

describe('invariant files', () => {
  test('a header names what the query needs', () => {
    expect(parseInvariant('one-hold.sql', valid)).toEqual({
      name: 'one-hold',
      severity: 'critical',
      needs: [
        { domain: 'payroll', table: 'payroll_runs', columns: ['tenant', 'id'] },
        { domain: 'payroll', table: 'payroll_items', columns: ['tenant', 'run_id'] },
        { domain: 'treasury', table: 'treasury_holds', columns: ['run_id'] },
      ],
      query: 'select tenant, id from payroll_runs',
    })
  })

  test.each([
    ['-- severity: critical', '-- severty: critical', '2: unknown key severty; known are name, severity, needs'],
    ['-- severity: critical', '', '1: lacks -- severity: ...'],
    ['-- severity: critical', '-- severity: bad', '2: severity is critical or warning'],
    ['-- severity: critical', '-- name: again', '2: name is there twice'],
    ['one-hold\n', 'two-holds\n', '1: names two-holds; name it as the file'],
    ['select tenant, id from payroll_runs;', '', '6: has no query'],
    ['treasury(treasury_holds: run_id)', 'treasury', '3: needs: write domain'],
    ['treasury_holds: run_id', 'treasury_holds', '"treasury_holds" is not a table with columns'],
    ['treasury_holds: run_id', 'treasury_holds: a; b', '"b" is not a table with columns'],
    ['treasury_holds: run_id', 'payroll_runs: run_id', 'table payroll_runs is there twice'],
    ['treasury_holds: run_id', "x: a'b", 'is not a table with columns'],
    ['treasury(treasury_holds: run_id)', 'holdfast(secrets: key)', 'holdfast has committed and delivery, not secrets'],
    [
      'treasury(treasury_holds: run_id)',
      'holdfast(committed: actor)',
      'committed has transaction_id, commit_timestamp',
    ],
  ])('refuses %j replaced by %j, naming file and line', (from, to, message) => {
    expect(() => parseInvariant('one-hold.sql', valid.replace(from, to))).toThrow(message)
  })

  test('those of PayLedger are invariants', async () => {
    const found = await loadInvariants('examples/payledger/invariants')
    expect(found.length).toBeGreaterThan(3)
  })
})
