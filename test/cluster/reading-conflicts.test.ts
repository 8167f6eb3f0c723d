import { beforeAll, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { NodeId } from '../../src/directory/topology.ts'
import type { Read, ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { eventually } from '../support/eventually.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** What becomes of reads when replay, or the server, takes their snapshot away. The table is in docs/protocols/visibility.md. */

const primary = 'eu-west/payroll.1' as NodeId
const near = 'eu-west/payroll.2' as NodeId
const far = 'eu-west/payroll.3' as NodeId
const tenant = 'globex-eu'

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west', 'eu-central'] }], {
  limits: { openWithinMs: 5_000 },
})
const { on } = fixture

const readNear = <T>(body: (reader: Read) => Promise<T>, request: Partial<ReadRequest> = {}) =>
  read(fixture.gateway.reading, { tenant, prefer: near, waitMs: 0, ...request }, body)
const pidOf = async (reader: Read) =>
  present((await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')).rows[0], 'a row').pid
/** The server process of a warm connection has told enough for a lean flight. */
const temper = async (how: 'cold' | 'warm') => {
  for (let n = 0; how === 'warm' && n < 3; n += 1) await readNear((reader) => reader.query('payroll', 'select 1'))
}
const isLost = (node: NodeId) => fixture.gateway.reading.watch.sightingOf(node).lostAtMs !== undefined

/** Replay on the followers meets a lock that no snapshot with `runs` in its hands can keep. */
const takeRunsAway = () => on(primary, 'truncate public.conflict')

async function expectServedBy(node: NodeId): Promise<void> {
  const { served } = await readNear((reader) => reader.query('payroll', 'select 1'))
  expect(served[0]).toMatchObject({ node, rerouted: false })
  expect(isLost(node)).toBe(false)
}

beforeAll(async () => {
  await on(primary, `create table public.conflict (n int)`)
  await on(primary, `grant select on public.conflict to public`)
  await on(
    primary,
    `create function public.fail_with(code text, everywhere boolean) returns int language plpgsql as $$
     begin
       if everywhere or pg_is_in_recovery() then raise exception 'as the test has it' using errcode = code; end if;
       return 1;
     end $$`,
  )
  for (const node of [near, far]) {
    await eventually(async () => (await on(node, `select from pg_proc where proname = 'fail_with'`)).length > 0)
  }
})

const touch = 'select count(*) from conflict'
/** Long enough for replay to give up on it. */
const linger = 'select count(*), pg_sleep(60) from (select count(*) from conflict) held'

describe('a conflict with recovery', () => {
  test.each(['cold', 'warm'] as const)(
    'R13: on the first statement the read is answered elsewhere: %s',
    async (how) => {
      await temper(how)
      let runs = 0
      const reading = readNear(async (reader) => {
        runs += 1
        return (await reader.query('payroll', runs === 1 ? linger : touch)).rows.length
      })
      await eventually(
        async () => (await on(near, `select from pg_stat_activity where query like '%pg_sleep%'`)).length > 1,
      )
      await takeRunsAway()
      const { value, served } = await reading
      expect([value, runs]).toEqual([1, 2])
      expect(served[0]?.node).not.toBe(near)
      await expectServedBy(near)
    },
  )

  test.each(['cold', 'warm'] as const)('R13: on the second statement, while it runs: %s', async (how) => {
    await temper(how)
    const pids: number[] = []
    const reading = readNear(async (reader) => {
      pids.push(await pidOf(reader))
      await reader.query('payroll', pids.length === 1 ? linger : touch)
      return pidOf(reader)
    })
    await eventually(async () => {
      const sleeping = await on(near, `select from pg_stat_activity where query like '%pg_sleep%' and pid = $1`, [
        pids[0],
      ])
      return sleeping.length > 0
    })
    await takeRunsAway()
    const { value, served } = await reading
    expect(value).toBe(pids[1])
    expect(served[0]?.node).not.toBe(near)
    await expectServedBy(near)
  })

  test('R13: between two statements, when the server ends the connection', async () => {
    const pids: number[] = []
    const { served } = await readNear(async (reader) => {
      pids.push(await pidOf(reader))
      await reader.query('payroll', touch)
      if (pids.length === 1) {
        await takeRunsAway()
        await eventually(async () => (await on(near, 'select from pg_stat_activity where pid = $1', pids)).length === 0)
      }
      await reader.query('payroll', touch)
    })
    expect(pids).toHaveLength(2)
    expect(served[0]?.node).not.toBe(near)
    await expectServedBy(near)
  })

  test.each(['cold', 'warm'] as const)('R13: on the proof: %s', async (how) => {
    await temper(how)
    const view = `pg_get_viewdef('holdfast.evidence'::regclass)`
    const [row] = await on<{ source: string }>(
      primary,
      `select 'create or replace view holdfast.evidence as ' || ${view} as source`,
    )
    const source = present(row, 'the view').source
    const held = source.replace(
      /\n +FROM /,
      '$&(select pg_advisory_lock_shared(78), pg_advisory_unlock_shared(78) from (select count(*) from public.conflict) counted) held, ',
    )
    expect(held).not.toBe(source)
    await on(primary, held)
    const shows = (text: string) => async () =>
      (await on(near, `select where ${view} like '%' || $1 || '%'`, [text])).length > 0
    await eventually(shows('78'))
    await on(near, 'select pg_advisory_lock(78)')
    const reading = readNear((reader) => reader.query('payroll', 'select 1'))
    await eventually(async () => {
      return (await on(near, `select from pg_locks where locktype = 'advisory' and not granted`)).length > 0
    })
    await takeRunsAway()
    const { served } = await reading
    expect(served[0]).toMatchObject({ rerouted: true })
    expect(served[0]?.node).not.toBe(near)
    expect(isLost(near)).toBe(false)
    await on(near, 'select pg_advisory_unlock(78)')
    await on(primary, source)
    await eventually(async () => !(await shows('78')()))
    await expectServedBy(near)
  })

  test.each(['40001', '40P01'])('%s from a follower is answered by the primary', async (code) => {
    const { served } = await readNear((reader) => reader.query('payroll', 'select fail_with($1, false)', [code]))
    expect(served[0]).toMatchObject({ node: primary })
    await expectServedBy(near)
  })

  test('R2: when every run meets one, it is told without its SQLSTATE', async () => {
    const cutOff = await fixture.open({
      limits: { openWithinMs: 300 },
      parts: {
        targetOf: (node) => ({ ...fixture.shards.targetOf(node), ...(node.id === primary ? { port: 1 } : {}) }),
      },
    })
    const failed = read(cutOff.reading, { tenant, prefer: near }, (reader) =>
      reader.query('payroll', `select fail_with('40001', false)`),
    )
    await expect(failed).rejects.toMatchObject({
      code: 'node_unavailable',
      retry: 'safe',
      message: expect.stringMatching(/gave the snapshot up: replay needed what it still showed$/),
      detail: { shard: payrollShard, node: expect.any(String), why: 'conflict', retryAfterMs: expect.any(Number) },
    })
    const error = await failed.catch((thrown: unknown) => thrown)
    expect(JSON.stringify((error as { detail: unknown }).detail)).not.toContain('40001')
    expect([near, far].some((node) => cutOff.reading.watch.sightingOf(node).lostAtMs !== undefined)).toBe(false)
  })

  test('on a primary it is the statement that fails so, and is told as it is', async () => {
    const failed = readNear((reader) => reader.query('payroll', `select fail_with('40001', true)`), {
      level: 'primary',
    })
    await expect(failed).rejects.toMatchObject({ code: 'serialization_failure', retry: 'safe' })
  })
})

describe('what is no conflict', () => {
  test('R12: a follower without memory for a statement is left by this read alone', async () => {
    const { served } = await readNear((reader) => reader.query('payroll', `select fail_with('53200', false)`))
    expect(served[0]).toMatchObject({ node: primary })
    await expectServedBy(near)
  })

  test('R12: one connection that is terminated is no lost node', async () => {
    let runs = 0
    const { served } = await readNear(async (reader) => {
      runs += 1
      const pid = await pidOf(reader)
      if (runs === 1) await on(near, 'select pg_terminate_backend($1)', [pid])
      await reader.query('payroll', touch)
    })
    expect(served[0]?.node).not.toBe(near)
    await eventually(() => !isLost(near))
    await expectServedBy(near)
  })

  test('a function that thinks for too long is told, and not run again', async () => {
    await on(near, `alter system set idle_in_transaction_session_timeout = '200ms'`)
    await on(near, 'select pg_reload_conf()')
    let runs = 0
    const failed = readNear(async (reader) => {
      runs += 1
      const pid = await pidOf(reader)
      await eventually(async () => (await on(near, 'select from pg_stat_activity where pid = $1', [pid])).length === 0)
      await reader.query('payroll', touch)
    })
    await expect(failed).rejects.toMatchObject({ code: 'statement_timeout', retry: 'safe', detail: { node: near } })
    expect(runs).toBe(1)
    await on(near, 'alter system reset idle_in_transaction_session_timeout')
    await on(near, 'select pg_reload_conf()')
    await expectServedBy(near)
  })

  test('a statement that a person cancels is told, and not run again', async () => {
    let runs = 0
    const failed = readNear(async (reader) => {
      runs += 1
      await reader.query('payroll', 'select pg_sleep(60)')
    })
    failed.catch(() => undefined)
    await eventually(async () => {
      const cancel = `select pg_cancel_backend(pid) from pg_stat_activity where query = 'select pg_sleep(60)'`
      return (await on(near, cancel)).length > 0
    })
    await expect(failed).rejects.toMatchObject({ code: 'statement_timeout', retry: 'safe', detail: { node: near } })
    expect(runs).toBe(1)
    await expectServedBy(near)
  })

  test.each([0, 3])('a statement that takes too long is told, and ends on the server too: the %s.', async (before) => {
    const brief = await fixture.open({ limits: { statementWithinMs: 200 } })
    for (let n = 0; n < before; n += 1) {
      await read(brief.reading, { tenant, prefer: near }, (reader) => reader.query('payroll', 'select 1'))
    }
    const failed = read(brief.reading, { tenant, prefer: near }, (reader) =>
      reader.query('payroll', 'select pg_sleep(60)'),
    )
    await expect(failed).rejects.toMatchObject({ code: 'statement_timeout', retry: 'safe', detail: { node: near } })
    expect(brief.reading.watch.sightingOf(near).lostAtMs).toBeUndefined()
    await eventually(async () => {
      const running = `select from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()`
      return (await on(near, running)).length === 0
    })
  })
})
