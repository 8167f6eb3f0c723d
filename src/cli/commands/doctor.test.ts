import { expect, test } from 'vitest'
import type { ClockAcceptanceView, InDoubtView } from '../../fleet/operations-api.ts'
import { acceptanceFindings, driftFindings, durabilityFindings, inDoubtFindings, postgresFindings } from './doctor.ts'

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

test('a shard whose commits nobody can acknowledge is a problem; one that waits for a single follower is a warning', () => {
  const shards = [0, 1, 2, null].map((acknowledging, index) => ({ shard: `eu-west/s${index}`, acknowledging }))
  expect(durabilityFindings(shards).map(({ status, detail }) => [status, detail])).toEqual([
    ['problem', 'no follower can acknowledge commits of eu-west/s0: writes stop'],
    ['warning', 'one follower of eu-west/s1 can acknowledge its commits: losing that one stops writes'],
  ])
})

test('R10: a route that is declared local and reads elsewhere is a warning for a week', () => {
  const lastAt = '2026-04-02T10:00:05.120Z'
  const drift = {
    route: 'GET /runs/{id}',
    from: 'eu-west',
    to: 'us-east',
    shard: 'us-east/treasury',
    reads: 3,
    firstAt: lastAt,
    lastAt,
  }
  const week = 7 * 86_400_000
  const detail = `GET /runs/{id} is declared local in eu-west and read us-east/treasury in us-east: 3 times, last at ${lastAt}`
  expect(driftFindings([drift], Date.parse(lastAt) + week)).toEqual([{ what: 'drift', status: 'warning', detail }])
  expect(driftFindings([drift], Date.parse(lastAt) + week + 1)).toEqual([])
})

test('HZ-X8: a server that can commit what was rolled back is told of, and is a problem where it can be renewed', () => {
  const binaries = { binDir: '/usr/lib/postgresql/18/bin', major: 18 }
  const told = (version: string, source: 'npm' | 'path') =>
    postgresFindings({ ...binaries, version, source }).map(({ what, status }) => [what, status])
  expect(told('18.6', 'npm')).toEqual([
    ['postgres', 'ok'],
    ['branches', 'warning'],
  ])
  expect(told('18.6', 'path').at(-1)).toEqual(['branches', 'problem'])
  expect(told('18.7', 'path')).toEqual([['postgres', 'ok']])
})

test('a clock that was accepted by hand is a warning until its time has come, and for a week', () => {
  const dayMs = 86_400_000
  const acceptedMs = Date.UTC(2026, 3, 2)
  const acceptance: ClockAcceptanceView = {
    shard: 'us-east/treasury',
    transactionId: branch.transactionId,
    home: 'eu-west/payroll',
    clockBefore: '2026-04-02T00:00:00.000Z+0000',
    commitTimestamp: '2026-05-02T00:00:00.000Z+0001',
    wall: '2026-04-02T00:00:00.000Z+0000',
    witness: '2026-04-02T00:00:00.000Z+0000',
    walls: {},
    maxClockOffsetMs: 500,
    actor: 'ops@globex.example',
    reason: 'ticket 4711',
    acceptedAt: new Date(acceptedMs).toISOString(),
  }
  const at = (days: number) => acceptanceFindings([acceptance], acceptedMs + days * dayMs)
  expect(at(0)).toEqual([
    {
      what: 'clock',
      status: 'warning',
      detail:
        'ops@globex.example let the clock of us-east/treasury pass 019d4d4e-0000-7000-8000-000000000000, from 2026-04-02T00:00:00.000Z+0000 ' +
        'to 2026-05-02T00:00:00.000Z+0001, at 2026-04-02T00:00:00.000Z: ticket 4711',
    },
  ])
  expect([29, 37, 38].map((days) => at(days).length)).toEqual([1, 1, 0])
  expect(
    acceptanceFindings([{ ...acceptance, commitTimestamp: acceptance.clockBefore }], acceptedMs + 8 * dayMs),
  ).toEqual([])
})
