import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { archiveOf, currentLsn, readAll, redoUpTo, type RunningRedo, testShard } from '../../test/support/archive.ts'
import { commitHome, decide, peerShard, prepareBranch } from '../../test/support/archive-shard.ts'
import { FoundedShard } from '../../test/support/founded-shard.ts'
import { present } from '../base/assert.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { RedoTransaction } from './redo-transaction.ts'
import { nameOf } from './redo-transaction.ts'

let shard: FoundedShard
let admin: Connection
let redo: RunningRedo

beforeAll(async () => {
  shard = await FoundedShard.open('quorum')
  admin = shard.admin
  await admin.query('create extension pg_walinspect')
  redo = shard.stream()
  await shard.streaming(1)
})

afterAll(async () => {
  await redo.stop()
  await shard[Symbol.asyncDispose]()
})

/** What the stream has of the transactions that `work` commits. */
async function streamed(work: () => Promise<unknown>): Promise<RedoTransaction[]> {
  const from = await currentLsn(admin)
  await work()
  // Something to close with, so that a mark behind the work is stored.
  const to = await currentLsn(admin)
  await closeNow()
  return (await redoUpTo(archiveOf(shard.root), to)).filter(({ endLsn }) => endLsn > from && endLsn <= to)
}

async function closeNow(): Promise<bigint> {
  const { rows } = await admin.query<{ t: string }>('select holdfast.tick(holdfast.wall_hlc())::text as t')
  const closing = BigInt(present(rows[0], 'a clock').t)
  await admin.query('select holdfast.publish_closed($1)', [closing])
  return closing
}

describe('the rows of a transaction', () => {
  test('HZ-R1: come with whole images before and after, stored values that did not change included', async () => {
    const long = 'x'.repeat(20_000)
    const [inserted, updated, deleted] = await streamed(async () => {
      await admin.query(`insert into payroll_runs (id, tenant, status, note) values (1, 'globex-eu', 'draft', $1)`, [
        long,
      ])
      await admin.query(`update payroll_runs set status = 'approved' where id = 1`)
      await admin.query('delete from payroll_runs where id = 1')
    })
    const draft = { id: '1', tenant: 'globex-eu', status: 'draft', note: long }
    const approved = { ...draft, status: 'approved' }
    expect(inserted?.changes).toEqual([{ op: 'insert', relation: 'public.payroll_runs', after: draft }])
    expect(updated?.changes).toEqual([
      { op: 'update', relation: 'public.payroll_runs', before: draft, after: approved },
    ])
    expect(deleted?.changes).toEqual([{ op: 'delete', relation: 'public.payroll_runs', before: approved }])
  })

  test('keep what text cannot show: nulls, empty texts, quotes, other scripts; a truncation is there too', async () => {
    const rows = [null, '', `it's "quoted" \\ and {braced}`, 'Größe 家 🧾', 'NULL']
    const transactions = await streamed(async () => {
      for (const [index, note] of rows.entries()) {
        await admin.query(`insert into payroll_runs (id, tenant, status, note) values ($1, 'globex-eu', 's', $2)`, [
          100 + index,
          note,
        ])
      }
      await admin.query('truncate payroll_items')
    })
    const notes = transactions.flatMap(({ changes }) =>
      changes.flatMap((c) => (c.op === 'insert' ? [c.after['note']] : [])),
    )
    expect(notes).toEqual(rows)
    expect(transactions.at(-1)?.changes).toEqual([{ op: 'truncate', relation: 'public.payroll_items' }])
  })

  test('follow a change of the table, with the shape of their time', async () => {
    const from = await currentLsn(admin)
    const before = await streamed(() =>
      admin.query(`insert into payroll_runs (tenant, status) values ('globex-eu', 'a')`),
    )
    const after = await streamed(async () => {
      await admin.query('alter table payroll_runs add column approved_by text')
      await admin.query(`insert into payroll_runs (tenant, status, approved_by) values ('globex-eu', 'b', 'me')`)
    })
    expect(before[0]?.changes[0]).not.toHaveProperty('after.approved_by')
    expect(after[0]?.changes[0]).toHaveProperty('after.approved_by', 'me')
    const shapes = await archiveOf(shard.root).relationShapes()
    expect(shapes.get('public.payroll_runs')).toEqual({
      schema: 'public',
      table: 'payroll_runs',
      columns: [
        { name: 'id', type: 'bigint', sequence: 'public.payroll_runs_id_seq' },
        { name: 'tenant', type: 'text', sequence: null },
        { name: 'status', type: 'text', sequence: null },
        { name: 'note', type: 'text', sequence: null },
        { name: 'approved_by', type: 'text', sequence: null },
      ],
      replicaIdentity: 'full',
      primaryKey: ['id'],
      foreignKeys: [],
    })
    const earlier = await archiveOf(shard.root).relationShapes({ at: present(before[0], 'one').endLsn })
    expect(earlier.get('public.payroll_runs')?.columns).toHaveLength(4)
    expect(from).toBeGreaterThan(0n)
  })

  test('name the keys that hold tables together', async () => {
    await streamed(async () => {
      await admin.query(`insert into payroll_runs (id, tenant, status) values (500, 'globex-eu', 'a')`)
      await admin.query(`insert into payroll_items values (500, 1, 'globex-eu', 12345)`)
    })
    const shape = (await archiveOf(shard.root).relationShapes()).get('public.payroll_items')
    expect(shape?.primaryKey).toEqual(['run', 'line'])
    expect(shape?.foreignKeys).toEqual([
      {
        name: 'payroll_items_run_fkey',
        columns: ['run'],
        references: 'public.payroll_runs',
        referencedColumns: ['id'],
      },
    ])
  })
})

describe('whose a transaction is', () => {
  test('a stamped one is named by its row of the commit log, at its stamp', async () => {
    let stamped = { transactionId: '', commitTimestamp: 0n }
    const [found] = await streamed(async () => {
      stamped = await commitHome(
        admin,
        [`insert into payroll_runs (tenant, status) values ('globex-eu', 'approved')`],
        'payroll.approve',
      )
    })
    expect(found?.identity).toEqual({
      kind: 'home',
      ...stamped,
      tenant: 'globex-eu',
      action: 'payroll.approve',
      subject: 'apr-2026',
      actor: 'manager@globex.example',
      participants: [],
    })
    expect(found && nameOf(found)).toBe(stamped.transactionId)
  })

  test('a branch comes where it was committed, not where it was prepared, at the timestamp of its decision', async () => {
    let branch = { transactionId: '', gid: '' }
    let between = { transactionId: '', commitTimestamp: 0n }
    const transactions = await streamed(async () => {
      branch = await prepareBranch(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'branch')`])
      between = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'between')`])
      await decide(admin, branch.transactionId, between.commitTimestamp + 5n)
      await admin.query(`commit prepared '${branch.gid}'`)
    })
    expect(transactions.map(({ identity }) => identity.kind)).toEqual(['home', 'platform', 'branch'])
    expect(transactions.at(-1)?.identity).toMatchObject({
      transactionId: branch.transactionId,
      commitTimestamp: between.commitTimestamp + 5n,
      home: peerShard,
      participants: [testShard],
    })
  })

  test('a branch whose decision was streamed by an earlier streamer still has its timestamp', async () => {
    const branch = await prepareBranch(admin, [
      `insert into payroll_runs (tenant, status) values ('globex-eu', 'later')`,
    ])
    const stamp = await closeNow()
    await streamed(() => decide(admin, branch.transactionId, stamp))
    await redo.stop()
    // Without the row, only the stream can know.
    await admin.query('begin')
    await admin.query('set local session_replication_role = replica')
    await admin.query('alter publication holdfast_redo drop table holdfast.decision')
    await admin.query('delete from holdfast.decision where transaction_id = $1', [branch.transactionId])
    await admin.query('alter publication holdfast_redo add table holdfast.decision')
    await admin.query('commit')
    redo = shard.stream()
    const [settled] = (await streamed(() => admin.query(`commit prepared '${branch.gid}'`))).slice(-1)
    expect(settled?.identity).toMatchObject({ kind: 'branch', commitTimestamp: stamp })
  })

  test('break-glass is unattributed, behind the highest stamp before it; a commit of the platform alone is its own kind', async () => {
    let stamped = { transactionId: '', commitTimestamp: 0n }
    const transactions = await streamed(async () => {
      stamped = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'x')`])
      await admin.query(`delete from payroll_runs where status = 'x'`)
      await admin.query(`update holdfast.placement set policy_version = policy_version + 1`)
    })
    const after = stamped.commitTimestamp
    expect(transactions.map(({ identity }) => identity).slice(1)).toEqual([
      { kind: 'unattributed', after },
      { kind: 'platform', after },
    ])
    const raw = present(transactions[1], 'the delete')
    expect(nameOf(raw)).toBe(`${testShard}@${formatLsn(raw.commitLsn)}`)
  })
})

describe('the places of transactions', () => {
  test('HZ-A3: are where their commit records start and end in the log', async () => {
    const from = await currentLsn(admin)
    const transactions = await streamed(async () => {
      await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'x')`])
      const { transactionId, gid } = await prepareBranch(admin, [
        `insert into payroll_runs (tenant, status) values ('globex-eu', 'y')`,
      ])
      await decide(admin, transactionId, await closeNow())
      await admin.query(`commit prepared '${gid}'`)
    })
    const { rows } = await admin.query<{ start: string; end: string; type: string; xid: string }>(
      `select start_lsn::text as start, end_lsn::text as end, record_type as type, xid::text as xid
       from pg_get_wal_records_info($1, pg_current_wal_flush_lsn())
       where resource_manager = 'Transaction' and record_type like 'COMMIT%'`,
      [formatLsn(from)],
    )
    const records = new Map(rows.map((row) => [parseLsn(row.start), row]))
    expect(transactions).toHaveLength(3)
    for (const { commitLsn, endLsn, identity } of transactions) {
      const record = records.get(commitLsn)
      expect(record?.type).toBe(identity.kind === 'branch' ? 'COMMIT_PREPARED' : 'COMMIT')
      expect(endLsn).toBe(record && parseLsn(record.end))
    }
  })
})

describe('how far the stream is', () => {
  test('its closed timestamp covers every transaction at or below it', async () => {
    const archive = archiveOf(shard.root)
    const stamps: { transactionId: string; commitTimestamp: bigint }[] = []
    for (let round = 0; round < 20; round++) {
      stamps.push(await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'x')`]))
      await closeNow()
      const through = await archive.redoThrough()
      const ids = new Set((await readAll(archive)).map(nameOf))
      const covered = stamps.filter(({ commitTimestamp }) => commitTimestamp <= (through?.closedTimestamp ?? 0n))
      expect(covered.filter(({ transactionId }) => !ids.has(transactionId))).toEqual([])
    }
    const last = present(stamps.at(-1), 'twenty').commitTimestamp
    await closeNow()
    await expect.poll(async () => ((await archive.redoThrough())?.closedTimestamp ?? 0n) >= last).toBe(true)
  })

  test('its closed timestamp does not run ahead of a decoder that is behind', async () => {
    const archive = archiveOf(shard.root)
    const { rows } = await admin.query<{ pid: number }>(
      `select active_pid as pid from pg_replication_slots where slot_name = 'hf_redo'`,
    )
    const { pid } = present(rows[0], 'a decoder')
    process.kill(pid, 'SIGSTOP')
    const stamped = await commitHome(admin, [`insert into payroll_runs (tenant, status) values ('globex-eu', 'x')`])
    try {
      expect(await closeNow()).toBeGreaterThanOrEqual(stamped.commitTimestamp)
      // The stream has looked at the closed timestamp since, twice.
      const looks = `select from pg_stat_activity where query like '%replicated_through%' and query_start > $1 and pid <> pg_backend_pid()`
      for (let look = 0; look < 2; look++) {
        const { rows: now } = await admin.query('select clock_timestamp() as t')
        await vi.waitUntil(async () => (await admin.query(looks, [now[0]?.['t']])).rowCount > 0, { timeout: 10_000 })
      }
      expect((await archive.redoThrough())?.closedTimestamp).toBeLessThan(stamped.commitTimestamp)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await expect
      .poll(async () => ((await archive.redoThrough())?.closedTimestamp ?? 0n) >= stamped.commitTimestamp)
      .toBe(true)
    expect((await readAll(archive)).map(nameOf)).toContain(stamped.transactionId)
  })

  test('lets the server forget the log of a shard where nothing is committed', async () => {
    const confirmed = async (): Promise<Lsn> => {
      const { rows } = await admin.query<{ lsn: string }>(
        `select confirmed_flush_lsn::text as lsn from pg_replication_slots where slot_name = 'hf_redo'`,
      )
      return parseLsn(present(rows[0], 'a slot').lsn)
    }
    await admin.query('create table beside (filler text)')
    await admin.query(`insert into beside select repeat('x', 1000) from generate_series(1, 3000)`)
    const to = await currentLsn(admin)
    await expect.poll(async () => (await confirmed()) >= to - 65536n).toBe(true)
  })
})
