import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Command } from '../support/command.ts'
import { TestFleet } from '../support/fleet.ts'
import { GatewayProcess } from '../support/gateway-process.ts'

/** Rows as they leave the process: every digit of them, whatever the time zone of who serves or asks. */

const tenant = 'globex-eu'
const zones = ['Europe/Berlin', 'America/Los_Angeles'] as const

const columns = `
  date '2026-04-01' as day, timestamp '2026-04-01 08:00' as local, timestamptz '2026-04-01 08:00:00.123456+02' as at,
  timestamptz 'infinity' as never, timestamp '0044-03-15 12:00 BC' as ides, time '08:00:00.000001' as clock,
  interval '1 year -2 days 03:04:05.000006' as span, array[timestamptz '2026-04-01 08:00:00.1+02', null] as moments,
  array[array[date '2026-04-01'], array[date '-infinity']] as days,
  array[90071992547409.93, 1234567890123456.78]::numeric[] as amounts, 9007199254740993 as cents, 1.10 as rate,
  point '(1,2.5)' as spot, array[point '(1,2)'] as spots, circle '<(1,2),3>' as round, array[circle '<(1,2),3>'] as rounds,
  array['a b', null] as words, array['00000000-0000-0000-0000-000000000001'::uuid] as ids, array['a'::name] as names,
  float8 'NaN' as none, array[float8 '-Infinity', 0.1] as floats, '\\xdead'::bytea as bytes, array['\\x00'::bytea] as pieces,
  jsonb '{"cents": 9007199254740993, "at": [1.10]}' as document, array[json '{"b":1,"a":1e400}'] as documents`

/** Its JSON is looked at in the text of the answer: who parses it rounds it. */
const row = {
  day: '2026-04-01',
  local: '2026-04-01T08:00:00',
  at: '2026-04-01T06:00:00.123456+00:00',
  never: 'infinity',
  ides: '0044-03-15 12:00:00 BC',
  clock: '08:00:00.000001',
  span: '1 year -2 days +03:04:05.000006',
  moments: ['2026-04-01T06:00:00.1+00:00', null],
  days: [['2026-04-01'], ['-infinity']],
  amounts: ['90071992547409.93', '1234567890123456.78'],
  cents: '9007199254740993',
  rate: '1.10',
  spot: { x: 1, y: 2.5 },
  spots: [{ x: 1, y: 2 }],
  round: { x: 1, y: 2, radius: 3 },
  rounds: '{"<(1,2),3>"}',
  words: ['a b', null],
  ids: ['00000000-0000-0000-0000-000000000001'],
  names: '{a}',
  none: 'NaN',
  floats: ['-Infinity', 0.1],
  bytes: '\\xdead',
  pieces: ['\\x00'],
  document: expect.anything(),
  documents: [expect.anything()],
}
const verbatim = [
  /"document": ?\{"at": \[1\.10\], "cents": 9007199254740993\}/,
  /"documents": ?\[\s*\{"b":1,"a":1e400\}/,
]

let fleet: TestFleet
let gateways: readonly GatewayProcess[]

beforeAll(async () => {
  fleet = await TestFleet.open()
  const { dataDir } = fleet.config
  gateways = await Promise.all(
    zones.map((TZ) => GatewayProcess.start({ dataDir, region: 'eu-west', env: { TZ }, quiet: true })),
  )
})

afterAll(async () => {
  await Promise.all((gateways ?? []).map((gateway) => gateway.stop()))
  await fleet?.close()
})

const business = { tenant, action: 'payroll.note', subject: 'x', actor: 'clerk' }
const statement = { domain: 'payroll', text: `select ${columns}` }

async function textOf(at: number, path: string, body: unknown, key?: string): Promise<string> {
  const headers = key === undefined ? {} : { 'idempotency-key': key }
  const answer = await gateways[at]?.post(path, body, headers)
  return (await answer?.text()) ?? ''
}

/** The rows of the first result, as they were written. */
const rowsIn = (text: string) => /"rows":(\[.*?\]),"rowCount"/s.exec(text)?.[1] ?? ''

function expectExact(text: string): void {
  expect(JSON.parse(text)).toEqual([row])
  for (const form of verbatim) expect(text).toMatch(form)
}

describe.each([0, 1])('a gateway in time zone %#', (at) => {
  test('tells every digit of a read and of a transaction', async () => {
    const read = rowsIn(await textOf(at, '/v1/reads', { tenant, queries: [statement] }))
    expectExact(read)
    expect(rowsIn(await textOf(at, '/v1/transactions', { ...business, statements: [statement] }))).toBe(read)
  })

  test('T7: tells them with an idempotency key as without, the first time as the second, wherever the second arrives', async () => {
    const request = { ...business, statements: [statement] }
    const bare = rowsIn(await textOf(at, '/v1/transactions', request))
    expectExact(bare)
    for (const [each, replayed] of [
      [at, false],
      [at, true],
      [1 - at, true],
    ] as const) {
      const text = await textOf(each, '/v1/transactions', request, `key-${at}`)
      expect(text).toContain(`"replayed":${replayed}`)
      expect(rowsIn(text)).toBe(bare)
    }
  })

  test('sql tells the same of a read and of a transaction', async () => {
    const run = `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'values-${at}', 'draft', 1)`
    for (const text of [statement.text, `${run} returning ${columns}`]) {
      const args = [
        'sql',
        text,
        '--tenant',
        tenant,
        '--domain',
        'payroll',
        '--data-dir',
        fleet.config.dataDir,
        '--json',
      ]
      const { stdout } = await new Command(args, { TZ: zones[at] ?? '' }).ended
      expect(JSON.parse(stdout)).toMatchObject({ rows: [row] })
      for (const form of verbatim) expect(stdout).toMatch(form)
    }
  })
})

test('T7: what a key kept as the results themselves, as earlier releases did, is told as it was kept', async () => {
  const request = { ...business, statements: [{ domain: 'payroll', text: 'select 1 as one' }] }
  const first = JSON.parse(await textOf(0, '/v1/transactions', request, 'earlier')) as { readonly results: unknown }
  await fleet.ask('eu-west/payroll', `update holdfast.idempotency set value = $1::jsonb where key = 'earlier'`, [
    JSON.stringify(first.results),
  ])
  const again = JSON.parse(await textOf(0, '/v1/transactions', request, 'earlier')) as unknown
  expect(again).toEqual({ ...first, replayed: true })
})
