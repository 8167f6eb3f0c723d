import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { present } from '../../src/base/assert.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import type { Finding } from '../../src/cli/commands/doctor.ts'
import { exitCodes } from '../../src/cli/output.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { attachFleet, quietRuntime } from '../../src/fleet/fleet.ts'
import { roleTarget } from '../../src/fleet/gateway-parts.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { formatGid } from '../../src/transaction/gid.ts'
import { runJson } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { CommandFleet, tenant } from '../support/command-fleet.ts'

/** Every command against one running fleet: one document on stdout, its shape, its exit code. */

const payroll = 'eu-west/payroll'
const treasury = 'us-east/treasury'
const hlc = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z\+[0-9a-f]{4}$/)
const lsn = expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/)
const uuid = expect.stringMatching(/^[0-9a-f-]{36}$/)
const count = expect.any(Number)
const text = expect.any(String)
const yes = { code: exitCodes.done }

let fleet: CommandFleet

beforeAll(async () => {
  fleet = await CommandFleet.open()
})

afterAll(() => fleet?.close())

describe('a fleet that runs', () => {
  test('up says where its gateways are', () => {
    const gateways = ['eu-west', 'eu-central', 'us-east'].map((region) => ({
      region,
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
    }))
    const dataDir = join(fleet.root, 'data')
    expect(fleet.ready).toEqual({ ready: true, tookMs: count, dataDir, gateways, closed: [] })
  })

  test('keys are rotated, and shown without their secrets', async () => {
    const first = { id: 1, state: 'signing', goneAt: null }
    expect(await fleet.holdfast('keys', 'list')).toMatchObject({ ...yes, document: [first] })
    const rotated = [
      { id: 1, state: 'retired', goneAt: text },
      { id: 2, state: 'signing', goneAt: null },
    ]
    expect((await fleet.holdfast('keys', 'rotate')).document).toEqual(rotated)
    expect((await fleet.holdfast('keys', 'list')).document).toEqual(rotated)
    expect((await fleet.holdfast('keys', 'revoke', '1')).document).toEqual(rotated.slice(1))
  })

  test('a read that drifts is listed, and doctor warns of it', async () => {
    const [west] = fleet.ready.gateways
    const queries = [{ domain: 'treasury', text: 'select 1' }]
    const answer = await fetch(`${present(west, 'the first gateway').url}/v1/reads`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ tenant, queries, route: 'GET /cash', reach: 'local' }),
    })
    expect(answer.status).toBe(200)
    const places = { from: 'eu-west', to: 'us-east', shard: treasury }
    const drift = { route: 'GET /cash', ...places, reads: 1, firstAt: text, lastAt: text }
    const list = async () => (await fleet.holdfast('drift', 'list')).document
    await eventually(async () => !isDeepStrictEqual(await list(), []), 30_000)
    expect(await list()).toEqual([drift])
    const { document } = await fleet.holdfast('doctor')
    expect(document).toContainEqual({ what: 'drift', status: 'warning', detail: expect.stringContaining('GET /cash') })
  })

  test('status, doctor, tenants', async () => {
    const { dataDir, gateways } = fleet.ready
    const [status, attached, doctor, tenants, one] = await Promise.all([
      fleet.holdfast('status'),
      runJson('status', '--data-dir', dataDir, '--region', 'us-east'),
      fleet.holdfast('doctor'),
      fleet.holdfast('tenant', 'list'),
      fleet.holdfast('tenant', 'show', tenant),
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
    const document = { fleet: 'payledger', region: 'eu-west', ready: true, closed: [], gateways, shards }
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

  test('doctor says what to set on a server that somebody has set otherwise', async () => {
    const gateway = await attachFleet(fleet.ready.dataDir, 'us-east', { ...quietRuntime, services: false })
    const [follower] = present(gateway.parts.topology.current().shards.get(treasury as ShardName), 'a shard').followers
    const node = present(follower, 'a follower')
    const set = (how: string) =>
      withConnection(roleTarget(gateway.parts.keys, node, 'holdfast_admin', 'test'), async (admin) => {
        await admin.query(`alter system ${how}`)
        await admin.query('select pg_reload_conf()')
      })
    const told = async () => {
      const { document } = await fleet.holdfast('doctor')
      return (document as Finding[]).filter(({ what }) => what === 'settings' || what === 'connections')
    }
    try {
      expect(await told()).toEqual([])
      await set(`set max_standby_streaming_delay = '30s'`)
      await eventually(async () => (await told()).length > 0)
      const detail = expect.stringContaining(`set max_standby_streaming_delay to 1s or less at ${node.id}: `)
      expect(await told()).toEqual([{ what: 'settings', status: 'warning', detail }])
    } finally {
      await set('reset max_standby_streaming_delay')
      await gateway.close()
    }
  })

  test('sql writes and reads; what was written is told by txn, timeline and prove', async () => {
    const written = await fleet.sql(
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
    const file = join(fleet.root, 'evidence.json')
    const action = { tenant, action: 'payroll.draft', subject: 'mar', actor: 'someone' }
    const [read, seen, txn, timeline, prove, resolved, explained] = await Promise.all([
      fleet.sql(`select id, total_cents from payroll_runs where id = 'mar'`),
      fleet.sql(
        `select id, total_cents from payroll_runs where id = 'mar'`,
        '--session',
        String(session),
        '--region',
        'eu-central',
      ),
      fleet.holdfast('txn', String(transactionId)),
      fleet.holdfast('timeline', '--tenant', tenant, '--since', String(commitTimestamp)),
      fleet.holdfast('prove', String(transactionId), '--out', file),
      fleet.holdfast('resolve'),
      fleet.holdfast('resolve', '--dry-run'),
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
    const gateway = await attachFleet(fleet.ready.dataDir, 'us-east', { ...quietRuntime, services: false })
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
      const [explained, doctor] = await Promise.all([fleet.holdfast('resolve', '--dry-run'), fleet.holdfast('doctor')])
      const branch = { ...name, gid, ageMs: count, record: null, homeIsOpen: null }
      const why = expect.stringContaining('no shard eu-west/gone')
      expect(explained).toEqual({ ...yes, document: [{ ...branch, verdict: 'unknown', why }] })
      const detail = expect.stringMatching(new RegExp(`^${gid}, \\d+ ms old: unknown: .*no shard eu-west/gone`))
      expect(doctor.document).toContainEqual({
        what: 'in doubt',
        status: expect.stringMatching(/warning|problem/),
        detail,
      })
      expect(await fleet.holdfast('resolve')).toEqual({ ...yes, document: [{ ...branch, verdict: 'left', why }] })
    } finally {
      await connection.query(`rollback prepared '${gid}'`)
      connection.release()
      await gateway.close()
    }
    expect(await fleet.holdfast('resolve', '--dry-run')).toEqual({ ...yes, document: [] })
  })

  test('backup, archive, restore, drill, invariants, cutover', async () => {
    const backups = await fleet.holdfast('backup')
    const backup = { backupId: text, startLsn: lsn, endLsn: lsn, bytes: count, durationMs: count }
    expect(backups).toEqual({
      ...yes,
      document: [
        { ...backup, shard: payroll, region: 'eu-west' },
        { ...backup, shard: treasury, region: 'us-east' },
      ],
    })
    const wrong = await fleet.addRun('wrong')
    await fleet.addRun('kept')

    const [status, verified, plan, invariants] = await Promise.all([
      fleet.holdfast('archive', 'status'),
      fleet.holdfast('archive', 'verify'),
      fleet.holdfast('restore', '--before', wrong.transactionId, '--without', wrong.transactionId, '--dry-run'),
      fleet.holdfast('invariants', 'check', 'journal-balances'),
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

    const restored = await fleet.holdfast('restore', '--before', wrong.transactionId, '--without', wrong.transactionId)
    const gate = { name: text, ok: true, durationMs: count, detail: text }
    const gates = Array.from({ length: 6 }, () => gate)
    const target = `before ${wrong.transactionId}`
    expect(restored).toMatchObject({ ...yes, document: { environment: text, target, excluded, replayed: 1, gates } })
    const { environment } = restored.document as { environment: string }
    const [drills, drill, there] = await Promise.all([
      fleet.holdfast('drill', 'list'),
      fleet.holdfast('drill', 'show', environment),
      fleet.holdfast('invariants', 'check', '--env', environment),
    ])
    const report = { id: environment, takenAt: text, target, verdict: 'passed', rtoMs: count, rpoMs: count, gates }
    expect(drills).toMatchObject({ ...yes, document: [report] })
    const checks = { storage: expect.any(Array), data: expect.any(Array), cutover: expect.any(Array) }
    expect(drill).toMatchObject({ ...yes, document: { ...report, checks } })
    expect(there.code).toBe(exitCodes.done)
    expect(there.document).toContainEqual(held)

    const cutover = await fleet.holdfast('cutover', environment)
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
    const { document } = await fleet.sql('select id from payroll_runs order by id')
    expect(document).toMatchObject({ rows: [{ id: 'kept' }, { id: 'mar' }] })
    const adopted = await fleet.holdfast('restore', 'drop', environment)
    expect(adopted).toMatchObject({ code: exitCodes.conflict, document: { error: { code: 'environment_held' } } })

    const other = ((await fleet.holdfast('restore', '--at', 'end')).document as { environment: string }).environment
    const dropped = await fleet.holdfast('restore', 'drop', other)
    const both = [text, text]
    expect(dropped).toEqual({ ...yes, document: { environment: other, stopped: both, removed: [...both, ...both] } })
    const again = await fleet.holdfast('restore', 'drop', other)
    expect(again).toEqual({ ...yes, document: { environment: other, stopped: [], removed: [] } })
  })

  test('failover: what is legal, and one', async () => {
    const refused = [{ region: 'us-east', followers: [], reasons: expect.any(Array) }]
    const asked = await fleet.holdfast('failover', payroll, '--what-if')
    expect(asked).toMatchObject({
      ...yes,
      document: {
        shard: payroll,
        promoted: null,
        options: { legal: [{ region: 'eu-west' }, { region: 'eu-central' }], refused },
      },
    })
    const done = await fleet.holdfast('failover', payroll, '--to', 'eu-central')
    const promoted = { node: text, region: 'eu-central', epoch: count, historyId: uuid }
    expect(done).toMatchObject({ ...yes, document: { shard: payroll, promoted, durationMs: count } })
  })
})

test('down stops it, frees the directory, and says nothing more on the stdout of up', async () => {
  expect(await fleet.holdfast('down')).toEqual({ ...yes, document: { stopped: true } })
  expect((await fleet.holdfast('down')).code).toBe(exitCodes.unavailable)
  const { code, stdout } = await fleet.up.ended
  expect(code).toBe(exitCodes.done)
  expect(JSON.parse(stdout)).toMatchObject({ ready: true })
  expect(await leftBehind(fleet.root)).toEqual([fleet.root])
})
