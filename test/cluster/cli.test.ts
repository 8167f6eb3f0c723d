import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import { exitCodes } from '../../src/cli/output.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { attachFleet, quietRuntime } from '../../src/fleet/fleet.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { formatGid } from '../../src/transaction/gid.ts'
import { Command, runJson } from '../support/command.ts'
import { temporaryFolder } from '../support/fleet.ts'

/** Every command against one running fleet: one document on stdout, its shape, its exit code. */

const tenant = 'globex-eu'
const payroll = 'eu-west/payroll'
const treasury = 'us-east/treasury'
const hlc = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z\+[0-9a-f]{4}$/)
const lsn = expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/)
const uuid = expect.stringMatching(/^[0-9a-f-]{36}$/)
const count = expect.any(Number)
const text = expect.any(String)
const yes = { code: exitCodes.done }

let root: string
let configFile: string
let up: Command
let ready: Awaited<ReturnType<Command['ready']>>

const holdfast = (...args: string[]) => runJson(...args, '--config', configFile)
const sql = (statement: string, ...more: string[]) =>
  holdfast('sql', statement, '--tenant', tenant, '--domain', 'payroll', ...more)
const addRun = async (id: string) => {
  const { document } = await sql(
    `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', '${id}', 'draft', 100)`,
    '--action',
    'payroll.draft',
    '--subject',
    id,
  )
  return document as { transactionId: string; session: string }
}

beforeAll(async () => {
  root = await temporaryFolder()
  configFile = join(root, 'holdfast.yaml')
  await writeFile(configFile, stringify({ ...(await configBelow(root)), listen: '127.0.0.1:0' }))
  up = new Command(['up', '--json', '--config', configFile])
  ready = await up.ready()
})

afterAll(async () => {
  up.child.kill('SIGTERM')
  await up.ended
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

describe('a fleet that runs', () => {
  test('up says where its gateways are', () => {
    const gateways = ['eu-west', 'eu-central', 'us-east'].map((region) => ({
      region,
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
    }))
    expect(ready).toEqual({ ready: true, tookMs: count, dataDir: join(root, 'data'), gateways })
  })

  test('status, doctor, tenants', async () => {
    const { dataDir, gateways } = ready
    const [status, attached, doctor, tenants, one] = await Promise.all([
      holdfast('status'),
      runJson('status', '--data-dir', dataDir, '--region', 'us-east'),
      holdfast('doctor'),
      holdfast('tenant', 'list'),
      holdfast('tenant', 'show', tenant),
    ])
    const node = (id: string, role: string, region: string) => ({
      node: id,
      role,
      region,
      reachable: true,
      position: lsn,
    })
    const shard = { state: 'open', durability: 'quorum', epoch: 1, historyId: uuid, closedTimestamp: hlc, inDoubt: 0 }
    // Of a shard with `survive: region` only the follower of the other region counts.
    const shards = [
      {
        ...shard,
        shard: payroll,
        acknowledging: 1,
        nodes: [
          node(`${payroll}.1`, 'primary', 'eu-west'),
          node(`${payroll}.2`, 'follower', 'eu-west'),
          node(`${payroll}.3`, 'follower', 'eu-central'),
        ],
      },
      {
        ...shard,
        shard: treasury,
        acknowledging: 2,
        nodes: [1, 2, 3].map((n) => node(`${treasury}.${n}`, n === 1 ? 'primary' : 'follower', 'us-east')),
      },
    ]
    const document = { fleet: 'payledger', region: 'eu-west', ready: true, gateways, shards }
    expect(status).toEqual({ ...yes, document })
    expect(attached).toEqual({ ...yes, document: { ...document, region: 'us-east' } })
    expect(doctor).toMatchObject(yes)
    expect(doctor.document).toContainEqual({ what: 'fleet', status: 'ok', detail: 'running and ready' })
    expect(tenants).toMatchObject({ ...yes, document: [{ tenant }, { tenant: 'acme-de' }, { tenant: 'initech-us' }] })
    const policy = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'read-only' }
    const placement = { domain: 'payroll', shard: payroll, version: 1, service: 'full', policyVersion: 1, policy }
    expect(one).toMatchObject({
      ...yes,
      document: { tenant, home: payroll, placements: expect.arrayContaining([placement]) },
    })
  })

  test('sql writes and reads; what was written is told by txn, timeline and prove', async () => {
    const written = await sql(
      `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'mar', 'draft', 9007199254740993) returning id, total_cents`,
      '--action',
      'payroll.draft',
      '--subject',
      'mar',
      '--actor',
      'someone',
    )
    const rows = [{ id: 'mar', total_cents: '9007199254740993' }]
    expect(written).toEqual({
      ...yes,
      document: {
        kind: 'committed',
        rows,
        rowCount: 1,
        session: text,
        transactionId: uuid,
        commitTimestamp: hlc,
        shards: [payroll],
      },
    })
    const { transactionId, commitTimestamp, session } = written.document as Record<string, string>
    const file = join(root, 'evidence.json')
    const action = { tenant, action: 'payroll.draft', subject: 'mar', actor: 'someone' }
    const [read, seen, txn, timeline, prove, resolved, explained] = await Promise.all([
      sql(`select id, total_cents from payroll_runs where id = 'mar'`),
      sql(
        `select id, total_cents from payroll_runs where id = 'mar'`,
        '--session',
        String(session),
        '--region',
        'eu-central',
      ),
      holdfast('txn', String(transactionId)),
      holdfast('timeline', '--tenant', tenant, '--since', String(commitTimestamp)),
      holdfast('prove', String(transactionId), '--out', file),
      holdfast('resolve'),
      holdfast('resolve', '--dry-run'),
    ])
    expect(read).toMatchObject({ ...yes, document: { kind: 'read', rows, rowCount: 1, served: [{ role: 'primary' }] } })
    expect(seen).toMatchObject({
      ...yes,
      document: { kind: 'read', rows, served: [{ appliedThrough: lsn, shard: payroll }] },
    })
    const told = { transactionId, outcome: 'committed', commitTimestamp, home: payroll, branches: [], refusal: null }
    expect(txn).toMatchObject({ ...yes, document: { ...told, ...action } })
    const entry = {
      name: transactionId,
      transactionId,
      commitTimestamp,
      ...action,
      shards: [payroll],
      attributed: true,
    }
    expect(timeline).toEqual({ ...yes, document: [entry] })
    expect(prove).toMatchObject({ ...yes, document: { transactionId, commitTimestamp, ...action, status: 'pending' } })
    const { links } = prove.document as { links: unknown[] }
    const link = { link: text, status: text, reason: text, facts: expect.any(Object) }
    expect(links).toEqual(Array.from({ length: 8 }, () => link))
    expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ transactionId, links: { length: 8 } })
    expect(resolved).toEqual({ ...yes, document: [] })
    expect(explained).toEqual({ ...yes, document: [] })
  })

  test('resolve and doctor tell of a branch in doubt, and leave one whose home nobody knows', async () => {
    const gateway = await attachFleet(ready.dataDir, 'us-east', { ...quietRuntime, services: false })
    const { topology, environment } = gateway.parts
    const participant = treasury as ShardName
    const transactionId = newTimeOrderedUuid() as TransactionId
    const name = { home: 'eu-west/gone' as ShardName, transactionId, participant }
    const gid = formatGid('payledger', name)
    const primary = present(topology.current().shards.get(participant)?.primary, 'the treasury has a primary')
    const connection = await Connection.connect(environment.targetOf(primary), 10_000)
    try {
      await connection.query('begin')
      await connection.query(`prepare transaction '${gid}'`)
      const [explained, doctor] = await Promise.all([holdfast('resolve', '--dry-run'), holdfast('doctor')])
      const branch = { ...name, gid, ageMs: count, record: null, homeIsOpen: null }
      const why = expect.stringContaining('no shard eu-west/gone')
      expect(explained).toEqual({ ...yes, document: [{ ...branch, verdict: 'unknown', why }] })
      const detail = expect.stringMatching(new RegExp(`^${gid}, \\d+ ms old: unknown: .*no shard eu-west/gone`))
      expect(doctor.document).toContainEqual({
        what: 'in doubt',
        status: expect.stringMatching(/warning|problem/),
        detail,
      })
      expect(await holdfast('resolve')).toEqual({ ...yes, document: [{ ...branch, verdict: 'left', why }] })
    } finally {
      await connection.query(`rollback prepared '${gid}'`)
      connection.release()
      await gateway.close()
    }
    expect(await holdfast('resolve', '--dry-run')).toEqual({ ...yes, document: [] })
  })

  test('backup, archive, restore, drill, invariants, cutover', async () => {
    const backups = await holdfast('backup')
    const backup = { backupId: text, startLsn: lsn, endLsn: lsn, bytes: count, durationMs: count }
    expect(backups).toEqual({
      ...yes,
      document: [
        { ...backup, shard: payroll, region: 'eu-west' },
        { ...backup, shard: treasury, region: 'us-east' },
      ],
    })
    const wrong = await addRun('wrong')
    await addRun('kept')

    const [status, verified, plan, invariants] = await Promise.all([
      holdfast('archive', 'status'),
      holdfast('archive', 'verify'),
      holdfast('restore', '--before', wrong.transactionId, '--without', wrong.transactionId, '--dry-run'),
      holdfast('invariants', 'check', 'journal-balances'),
    ])
    const archived = {
      baseBackups: [{ backupId: text, takenAt: text, timeline: 1, startLsn: lsn, endLsn: lsn, bytes: count }],
      restorable: { from: lsn, through: lsn, timeline: 1 },
      gaps: [],
      redo: { from: lsn, through: lsn, closedTimestamp: hlc },
    }
    expect(status).toEqual({
      ...yes,
      document: [
        { ...archived, shard: payroll, region: 'eu-west' },
        { ...archived, shard: treasury, region: 'us-east' },
      ],
    })
    const verdict = {
      ok: true,
      problems: [],
      baseBackups: 1,
      walSegments: count,
      redoTransactions: count,
      bytes: count,
    }
    expect(verified).toMatchObject({
      ...yes,
      document: [
        { shard: payroll, ...verdict },
        { shard: treasury, ...verdict },
      ],
    })
    const excluded = [{ name: wrong.transactionId, reason: text }]
    expect(plan).toMatchObject({ ...yes, document: { environment: null, excluded, conflicts: [], gates: [] } })
    const held = { name: 'journal-balances', severity: text, violations: 0, rows: [] }
    expect(invariants).toEqual({ ...yes, document: [held] })

    const restored = await holdfast('restore', '--before', wrong.transactionId, '--without', wrong.transactionId)
    const gate = { name: text, ok: true, durationMs: count, detail: text }
    const gates = Array.from({ length: 6 }, () => gate)
    const target = `before ${wrong.transactionId}`
    expect(restored).toMatchObject({ ...yes, document: { environment: text, target, excluded, replayed: 1, gates } })
    const { environment } = restored.document as { environment: string }
    const [drills, drill, there] = await Promise.all([
      holdfast('drill', 'list'),
      holdfast('drill', 'show', environment),
      holdfast('invariants', 'check', '--env', environment),
    ])
    const report = { id: environment, takenAt: text, target, verdict: 'passed', rtoMs: count, rpoMs: count, gates }
    expect(drills).toMatchObject({ ...yes, document: [report] })
    const checks = { storage: expect.any(Array), data: expect.any(Array), cutover: expect.any(Array) }
    expect(drill).toMatchObject({ ...yes, document: { ...report, checks } })
    expect(there.code).toBe(exitCodes.done)
    expect(there.document).toContainEqual(held)

    const cutover = await holdfast('cutover', environment)
    const switched = { shard: text, epoch: count, historyId: uuid }
    expect(cutover).toMatchObject({
      ...yes,
      document: {
        environment,
        shards: [switched, switched],
        leftOut: [wrong.transactionId],
        compensations: [],
        gates: expect.any(Array),
      },
    })
    const { document } = await sql('select id from payroll_runs order by id')
    expect(document).toMatchObject({ rows: [{ id: 'kept' }, { id: 'mar' }] })
  })

  test('failover: what is legal, and one', async () => {
    const refused = [{ region: 'us-east', followers: [], reasons: expect.any(Array) }]
    const asked = await holdfast('failover', payroll, '--what-if')
    expect(asked).toMatchObject({
      ...yes,
      document: {
        shard: payroll,
        promoted: null,
        options: { legal: [{ region: 'eu-west' }, { region: 'eu-central' }], refused },
      },
    })
    const done = await holdfast('failover', payroll, '--to', 'eu-central')
    const promoted = { node: text, region: 'eu-central', epoch: count, historyId: uuid }
    expect(done).toMatchObject({ ...yes, document: { shard: payroll, promoted, durationMs: count } })
  })
})

describe('bad input is refused with the exit code of its category', () => {
  const nobody = '0198a8a8-0000-7000-8000-000000000000'
  const cases: [string[], number, string][] = [
    [['frob'], 2, 'argument_invalid'],
    [['status', '--region', 'mars'], 2, 'argument_invalid'],
    [['sql', 'select 1', '--tenant', 'nobody', '--domain', 'payroll'], 4, 'unknown_tenant'],
    [['sql', 'select 1', '--tenant', tenant, '--domain', 'nothing'], 4, 'unknown_domain'],
    [['sql', 'select 1; commit', '--tenant', tenant, '--domain', 'payroll'], 2, 'statement_refused'],
    [['sql', 'select 1', '--tenant', tenant, '--domain', 'payroll', '--session', 'no token'], 2, 'token_malformed'],
    [['tenant', 'show', 'nobody'], 4, 'unknown_tenant'],
    [['timeline', '--tenant', 'nobody'], 4, 'unknown_tenant'],
    [['timeline', '--since', 'yesterday'], 2, 'argument_invalid'],
    [['txn', nobody], 4, 'unknown_transaction'],
    [['prove', nobody], 4, 'unknown_transaction'],
    [['backup', 'eu-west/nothing'], 4, 'unknown_shard'],
    [['restore'], 2, 'argument_invalid'],
    [['restore', '--before', nobody], 4, 'unknown_transaction'],
    [['restore', '--at', 'end', '--into', 'elsewhere'], 2, 'argument_invalid'],
    [['invariants', 'check', 'nothing'], 4, 'unknown_invariant'],
    [['invariants', 'check', '--env', 'nothing'], 4, 'unknown_environment'],
    [['drill', 'show', 'nothing'], 4, 'unknown_environment'],
    [['cutover', 'nothing'], 4, 'unknown_environment'],
    [['failover', 'eu-west/nothing'], 4, 'unknown_shard'],
    [['failover', payroll, '--to', 'mars'], 2, 'argument_invalid'],
    [['failover', payroll, '--to', 'us-east'], 3, 'residency_denied'],
    [['up'], 5, 'fleet_locked'],
    [['up', '--wan', 'far'], 2, 'argument_invalid'],
  ]

  test.concurrent.each(cases)('%j', async (args, code, error) => {
    expect(await holdfast(...args)).toMatchObject({ code, document: { error: { code: error, message: text } } })
  })

  test('a token that was changed, and one of another tenant', async () => {
    const { session } = await addRun('token')
    const changed = `${session.slice(0, -4)}${session.endsWith('AAAA') ? 'BBBB' : 'AAAA'}`
    const read = ['sql', 'select 1', '--domain', 'payroll']
    const [forged, foreign] = await Promise.all([
      holdfast(...read, '--tenant', tenant, '--session', changed),
      holdfast(...read, '--tenant', 'acme-de', '--session', session),
    ])
    expect(forged).toMatchObject({ code: exitCodes.denied, document: { error: { code: 'token_forged' } } })
    expect(foreign).toMatchObject({ code: exitCodes.denied, document: { error: { code: 'token_foreign' } } })
  })

  test('a configuration with an unknown key or an illegal replica starts nothing', async () => {
    const dataDir = join(root, 'other')
    const config = { ...(await configBelow(root)), dataDir, listen: '127.0.0.1:0' }
    const shards = { ...config.shards, [payroll]: { durability: 'quorum', followers: ['eu-west', 'us-east'] } }
    const start = async (name: string, content: object) => {
      const file = join(root, name)
      await writeFile(file, stringify(content))
      return runJson('up', '--config', file)
    }
    const answers = await Promise.all([
      start('key.yaml', { ...config, colour: 'red' }),
      start('replica.yaml', { ...config, shards }),
      runJson('up', '--config', join(root, 'nothing.yaml')),
    ])
    const error = { code: 'config_invalid', message: text, hint: text }
    for (const answer of answers) expect(answer).toMatchObject({ code: exitCodes.invalid, document: { error } })
    expect(await leftBehind(dataDir)).toEqual([])
  })

  test('no fleet there', async () => {
    const answer = await runJson('status', '--data-dir', join(root, 'nowhere'))
    expect(answer).toMatchObject({ code: exitCodes.unavailable, document: { error: { code: 'fleet_not_running' } } })
  })
})

test('down stops it, frees the directory, and says nothing more on the stdout of up', async () => {
  expect(await holdfast('down')).toEqual({ ...yes, document: { stopped: true } })
  expect((await holdfast('down')).code).toBe(exitCodes.unavailable)
  const { code, stdout } = await up.ended
  expect(code).toBe(exitCodes.done)
  expect(JSON.parse(stdout)).toMatchObject({ ready: true })
  expect(await leftBehind(root)).toEqual([root])
})
