import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approve, gate, gatewayOf, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { Connection } from '../postgres/connection.ts'
import { pushBranch, settleDecided } from './in-doubt.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterAll(async () => {
  await shards.close()
})

describe('S11: who knows of more branches than it names', () => {
  const countHolds = (run: string) => async (tx: Tx) =>
    (await tx.query('treasury', 'select 1 from holds where run = $1', [run])).rowCount

  test('finds everything that is decided there; what is not decided stays, and keeps nobody waiting', async () => {
    const stop = gate('global decision row')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const [told, undecided] = [newRun(), newRun()]
    await transact(slow, request(told), approve(told))
    await stop.reached
    const stay = gate('global record inserted')
    const late = await gatewayOf(shards, { onStep: stay.onStep })
    const committing = transact(late, request(undecided), approve(undecided))
    await stay.reached

    const environment = await gatewayOf(shards)
    expect((await transact(environment, request('look'), countHolds(told))).value).toBe(0)
    const looking = request('look', { pendingForgotten: [treasury] })
    expect((await transact(environment, looking, countHolds(told))).value).toBe(1)
    expect(await shards.prepared(treasury)).toHaveLength(1)
    stay.release()
    stop.release()
    await committing
    await late.background.drain()
    await slow.background.drain()
  })

  test('is refused where the home of one does not say whether it is decided', async () => {
    const stop = gate('global decision row')
    const { environment: slow, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    await transact(slow, request(run), approve(run))
    await stop.reached
    await kill()
    const environment = await gatewayOf(shards)
    const known = shards.topology.current().shards.get(home)
    shards.replaceShard(home, { state: 'fenced' })
    await expect(settleDecided(environment, treasury)).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining('is fenced'),
    })
    expect(await shards.prepared(treasury)).toHaveLength(1)
    shards.replaceShard(home, { state: known?.state ?? 'open' })
    await settleDecided(environment, treasury)
    expect(await shards.prepared(treasury)).toEqual([])
    await transact(
      environment,
      request('again'),
      async (tx) => void (await tx.query('payroll', insertRun, [tenant, newRun()])),
    )
  })
})

test('HZ-X3: a branch that is settled while somebody looks for it is not absent', async () => {
  // Whoever looks at branches has his snapshot, and waits with it while the lock is held.
  await shards.admin(treasury).script(`
    create function held() returns boolean language plpgsql as $$
      begin perform pg_advisory_xact_lock_shared(42); return true; end $$;
    alter table holdfast.branch rename to branch_held;
    create view holdfast.branch as select b.* from holdfast.branch_held b where (select held());
    alter view holdfast.branch owner to holdfast_owner;
    grant select on holdfast.branch to holdfast_gateway`)
  const stop = gate('global decision row')
  const slow = await gatewayOf(shards, { onStep: stop.onStep })
  const run = newRun()
  const { transactionId } = await transact(slow, request(run), approve(run))
  await stop.reached

  const holder = await Connection.connect(shards.target(treasury), 5_000)
  try {
    await holder.query('select pg_advisory_lock(42)')
    const pushed = pushBranch(await gatewayOf(shards), treasury, transactionId)
    await eventually(async () => {
      const waiting = `select from pg_locks where locktype = 'advisory' and objid = 42 and not granted
        and database = (select oid from pg_database where datname = current_database())`
      return (await shards.rows(treasury, waiting)).length > 0
    })
    stop.release()
    await eventually(async () => (await shards.prepared(treasury)).length === 0)
    await holder.query('select pg_advisory_unlock(42)')
    expect(await pushed).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
  } finally {
    holder.release()
  }
})
